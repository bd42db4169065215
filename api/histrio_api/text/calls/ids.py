"""Ids of calls, for the client to say which call a result is of."""

from __future__ import annotations

from uuid import uuid4

__all__ = ["new_id", "short_id"]


def new_id(prefix: str = "call_") -> str:
    """As OpenAI's."""
    return f"{prefix}{uuid4().hex[:24]}"


def short_id() -> str:
    """Nine letters and digits, which is what some templates ask for."""
    return uuid4().hex[:9]
