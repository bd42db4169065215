"""How often each token occurred in a sequence, kept up token by token: penalties must not count it anew every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from histrio.contracts.sampler import LogitsRows
from histrio_samplers.edits import Edits

__all__ = ["TokenCounts", "counts_of"]


class TokenCounts:
    """The distinct tokens of one sequence and their counts."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._tokens, counts = np.unique(np.array(ids, np.int64), return_counts=True)
        self._counts = counts.astype(np.float32)
        self._length = len(self._tokens)
        self._index = {token: index for index, token in enumerate(self._tokens.tolist())}

    def add(self, token: int) -> None:
        """Count this token once more."""
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
        for token, count in Counter(drafts).items():
            if token in self._index:
                counts[self._index[token]] += count
            else:
                new[token] = count
        return (
            np.concatenate([tokens, np.array(list(new), np.int64)]),
            np.concatenate([counts, np.array(list(new.values()), np.float32)]),
        )


def counts_of(counts: Mapping[int, TokenCounts], rows: LogitsRows) -> Edits:
    """The distinct tokens before each row whose slot is counted, and how often they occurred."""
    slots = rows.slots.tolist()
    if not rows.drafts:
        return {row: counts[slot].with_drafts(()) for row, slot in enumerate(slots) if slot in counts}
    return {row: counts[slot].with_drafts(rows.drafts[row]) for row, slot in enumerate(slots) if slot in counts}
