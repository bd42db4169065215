"""Which tokens of a vocabulary contain a text.

The bytes of all tokens stand behind each other, so that one search goes through all of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate

__all__ = ["TokenSearch"]

_BETWEEN = b"\xff"
"""Occurs in no text, so nothing is found across two tokens."""


class TokenSearch:
    """`tokens` are the bytes of each id, in order."""

    def __init__(self, tokens: Iterable[bytes]) -> None:
        known = list(tokens)
        self._joined = _BETWEEN.join(known)
        self._starts = list(accumulate((len(token) + 1 for token in known), initial=0))

    def ids_containing(self, text: str) -> list[int]:
        """Ascending ids; `text` is not empty."""
        assert text, "every token contains nothing"
        sought = text.encode()
        found: list[int] = []
        place = self._joined.find(sought)
        while place >= 0:
            found.append(bisect_right(self._starts, place) - 1)
            place = self._joined.find(sought, self._starts[found[-1] + 1])
        return found
