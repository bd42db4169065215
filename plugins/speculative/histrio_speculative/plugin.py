"""Registers the drafters of this package."""

from __future__ import annotations

from collections.abc import Callable

from histrio.drafting import DrafterFactory
from histrio.hooks import hookimpl

__all__ = ["register_drafters"]


@hookimpl
def register_drafters(register: Callable[[DrafterFactory], None]) -> None:
    """Offer `ngram`."""
    from histrio_speculative.ngram import NgramFactory

    register(NgramFactory())
