"""How often each token occurred in a sequence, or in its last tokens.

It is kept up token by token, because penalties must not count anew every step.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Annotated, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from histrio.contracts.sampler import LogitsRows
from histrio_samplers.edits import Edits

__all__ = ["TokenCounts", "Window", "counts_of"]

Window: TypeAlias = Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)]
"""How many of the last tokens count; -1 for all."""


class TokenCounts:
    """The distinct tokens of one sequence and their counts; with a window, of its last tokens alone."""

    def __init__(self, ids: Sequence[int], window: int = -1) -> None:
        assert window, "a window of nothing counts nothing"
        self._last: deque[int] | None = None
        self._window = window
        if window >= 0:
            ids = ids[max(0, len(ids) - window) :]
            self._last = deque(ids)
        self._tokens, counts = np.unique(np.array(ids, np.int64), return_counts=True)
        self._counts = counts.astype(np.float32)
        self._length = len(self._tokens)
        self._index = {token: index for index, token in enumerate(self._tokens.tolist())}

    def add(self, token: int) -> None:
        """Count this token once more, and the one that leaves the window once less."""
        if self._last is not None:
            self._last.append(token)
            if len(self._last) > self._window:
                self._forget(self._last.popleft())
        index = self._index.get(token)
        if index is not None:
            self._counts[index] += 1
            return

        if self._length == len(self._tokens):
            room = max(64, self._length)
            self._tokens = np.concatenate([self._tokens, np.zeros(room, np.int64)])
            self._counts = np.concatenate([self._counts, np.zeros(room, np.float32)])
        self._index[token] = self._length
        self._tokens[self._length], self._counts[self._length] = token, 1
        self._length += 1

    def with_drafts(self, drafts: Sequence[int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Distinct tokens and their counts as if `drafts` had been added; does not add them."""
        tokens, counts = self._tokens[: self._length], self._counts[: self._length]
        if not drafts:
            return tokens, counts

        counts, new = counts.copy(), {}
        for token, count in Counter(self._drafts_within(drafts)).items():
            if token in self._index:
                counts[self._index[token]] += count
            else:
                new[token] = count
        for token in self._leaving(len(drafts)):
            counts[self._index[token]] -= 1
        if self._last is not None:
            tokens, counts = tokens[counts > 0], counts[counts > 0]
        return (
            np.concatenate([tokens, np.array(list(new), np.int64)]),
            np.concatenate([counts, np.array(list(new.values()), np.float32)]),
        )

    def _drafts_within(self, drafts: Sequence[int]) -> Sequence[int]:
        return drafts if self._last is None else drafts[max(0, len(drafts) - self._window) :]

    def _leaving(self, num_tokens: int) -> list[int]:
        """Those that leave the window if so many tokens come."""
        if self._last is None:
            return []
        num_leaving = min(len(self._last), len(self._last) + num_tokens - self._window)
        return list(islice(self._last, max(0, num_leaving)))

    def _forget(self, token: int) -> None:
        """The last of the distinct tokens takes the place of one that does not occur any more."""
        index = self._index[token]
        self._counts[index] -= 1
        if self._counts[index] > 0:
            return

        self._length -= 1
        moved = int(self._tokens[self._length])
        self._tokens[index], self._counts[index] = moved, self._counts[self._length]
        self._index[moved] = index
        del self._index[token]


def counts_of(counts: Mapping[int, TokenCounts], rows: LogitsRows) -> Edits:
    """The distinct tokens before each row whose slot is counted, and how often they occurred."""
    slots = rows.slots.tolist()
    if not rows.drafts:
        return {row: counts[slot].with_drafts(()) for row, slot in enumerate(slots) if slot in counts}
    return {row: counts[slot].with_drafts(rows.drafts[row]) for row, slot in enumerate(slots) if slot in counts}
