"""Samplers: greedy, temperature, top-k, top-p, and the seeded draw."""
