"""Batching's room: which sequences take part in the next step, and what comes of each."""
