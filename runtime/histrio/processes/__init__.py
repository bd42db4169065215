"""Processes of a running service: which actors live in which, and how they start and end."""
