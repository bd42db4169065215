"""Bad words: sequences of tokens that must not come up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import Array, ArrayNamespace
from histrio.contracts.sampler import LogitsRows, Opening, Slots, TokenId
from histrio_samplers.edits import add_to

__all__ = ["BadWords", "BadWordsParams"]

_Word = Annotated[list[TokenId], msgspec.Meta(min_length=1, max_length=64)]


class BadWordsParams(msgspec.Struct, frozen=True):
    """The field `bad_words_ids`: words as lists of token ids."""

    bad_words_ids: Annotated[
        list[_Word],
        msgspec.Meta(max_length=1024, description="a list of at most 1024 words, each a list of 1 to 64 token ids"),
    ] = []


class BadWords:
    """Removes the last token of a word wherever the tokens before it, prompt or output, are the rest of the word."""

    name: ClassVar[str] = "bad_words"
    order: ClassVar[int] = 20
    params: ClassVar[type[msgspec.Struct]] = BadWordsParams

    def __init__(self, max_slots: int) -> None:
        self._words: dict[int, list[list[int]]] = {}
        self._tails: dict[int, list[int]] = {}
        """The sequence's last tokens, as many as its longest word needs."""

    def open(self, slot: int, params: msgspec.Struct, opening: Opening) -> bool:
        """Remember the slot's words, and the end of its tokens."""
        assert isinstance(params, BadWordsParams)
        self._words.pop(slot, None)
        if not params.bad_words_ids:
            return False

        self._words[slot] = params.bad_words_ids
        self._tails[slot] = list(opening.ids[-self._tail_length(slot) :])
        return True

    def observe(self, slots: Slots, ids: npt.NDArray[Any], probabilities: npt.NDArray[np.float32]) -> None:
        """Count one more token in each of these slots."""
        for slot, token in zip(slots.tolist(), ids.tolist(), strict=True):
            tail = self._tails[slot]
            tail.append(token)
            del tail[: -self._tail_length(slot)]

    def apply(self, xp: ArrayNamespace, logits: Array, rows: LogitsRows) -> Array:
        """Remove the tokens that would complete a word."""
        edits = {}
        for row, slot in enumerate(rows.slots.tolist()):
            if slot in self._words:
                tail = [*self._tails[slot], *rows.drafts[row]] if rows.drafts else self._tails[slot]
                last = sorted({word[-1] for word in self._words[slot] if _ends_with(tail, word[:-1])})
                edits[row] = np.array(last, np.int64), np.full(len(last), -np.inf, np.float32)
        return add_to(xp, logits, edits)

    def _tail_length(self, slot: int) -> int:
        return max(len(word) for word in self._words[slot])


def _ends_with(tokens: Sequence[int], end: Sequence[int]) -> bool:
    return len(end) == 0 or list(tokens[-len(end) :]) == list(end)
