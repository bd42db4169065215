"""N-gram lookup: what followed the last few tokens when they stood there before is likely to follow again.

Saxena 2023, "Prompt Lookup Decoding". It needs no weights, and pays wherever an answer repeats its prompt or itself:
summaries, edits of code, quotations, lists. The longest match decides, and of several the latest.
"""

from __future__ import annotations

from collections.abc import Sequence

from histrio.drafting import DraftSession

__all__ = ["NgramDrafter"]

_LENGTHS = (4, 3, 2)
"""Tokens of a match, the longest first."""


class NgramDrafter:
    """Registers as `ngram`."""

    name = "ngram"

    def begin(self, ids: Sequence[int]) -> DraftSession:
        """Remember where each n-gram of the sequence ends."""
        session = _Session()
        session.extend(ids)
        return session


class _Session:
    def __init__(self) -> None:
        self._ids: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}
        """N-gram → index after its latest place; the n-gram that ends the sequence is not in it yet."""

    def extend(self, ids: Sequence[int]) -> None:
        """Note the n-grams that now have a successor."""
        known = self._ids
        for token in ids:
            end = len(known)
            for length in _LENGTHS:
                if end >= length:
                    self._ends[tuple(known[end - length :])] = end
            known.append(token)

    def propose(self, num_tokens: int) -> list[int]:
        """What stood after the longest tail that occurred before. A guess may run on into itself: loops are found."""
        known = self._ids
        for length in _LENGTHS:
            end = self._ends.get(tuple(known[-length:])) if len(known) >= length else None
            if end is not None:
                period = len(known) - end
                return [known[end + index % period] for index in range(num_tokens)]
        return []
