"""Actors: thin shells over a pure core. Each handles one message at a time and tells, never asks."""
