"""Grammars for structured output, enforced by llguidance."""
