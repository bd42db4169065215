"""The drafter contract: who guesses the tokens that a sequence will say next.

A guess costs nothing but a place in the step: the model computes guessed tokens side by side with the one it has to
compute anyway, and what it would have said itself decides. So a drafter changes how fast tokens come and never which.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["DraftSession", "Drafter"]


class DraftSession(Protocol):
    """What a drafter keeps of one sequence."""

    def extend(self, ids: Sequence[int]) -> None:
        """These tokens came."""

    def propose(self, num_tokens: int) -> list[int]:
        """Up to `num_tokens` that may come next; none where it has no idea. Changes nothing."""


class Drafter(Protocol):
    """Registered by a plugin as an object; called in the engine's thread, between steps, so it takes microseconds."""

    name: str

    def begin(self, ids: Sequence[int]) -> DraftSession:
        """A sequence starts to decode, with these tokens so far."""
