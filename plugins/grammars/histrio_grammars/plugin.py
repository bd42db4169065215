"""The hook implementation that offers llguidance."""

from __future__ import annotations

from collections.abc import Callable

from histrio.contracts.grammar import GrammarBackend
from histrio.contracts.hooks import hookimpl
from histrio_grammars.backend import Llguidance

__all__ = ["register_grammars"]


@hookimpl
def register_grammars(register: Callable[[GrammarBackend], None]) -> None:
    """Offer the built-in grammars."""
    register(Llguidance())
