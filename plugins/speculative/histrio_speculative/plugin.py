"""Registers the drafters of this package."""

from __future__ import annotations

from collections.abc import Callable

from histrio.contracts.drafter import DrafterFactory
from histrio.contracts.hooks import hookimpl

__all__ = ["register_drafters"]


@hookimpl
def register_drafters(register: Callable[[DrafterFactory], None]) -> None:
    """Offer `ngram`, `suffix`, `draft-model` and `early-exit`."""
    from histrio_speculative.draft_model import DraftModelFactory
    from histrio_speculative.early_exit import EarlyExitFactory
    from histrio_speculative.ngram import NgramFactory
    from histrio_speculative.suffix import SuffixFactory

    register(NgramFactory())
    register(SuffixFactory())
    register(DraftModelFactory())
    register(EarlyExitFactory())
