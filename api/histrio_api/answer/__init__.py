"""Deltas become chunks and whole answers."""
