"""Samplers: constraints and penalties, temperature, truncations; one file each."""
