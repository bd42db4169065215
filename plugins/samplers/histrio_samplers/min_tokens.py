"""Minimum length: a text cannot end before it has so many tokens."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import Array, ArrayNamespace
from histrio.contracts.sampler import LogitsRows, Opening
from histrio_samplers.edits import add_to

__all__ = ["MinTokens", "MinTokensParams"]


class MinTokensParams(msgspec.Struct, frozen=True):
    """The field `min_tokens`: output tokens before an end token may be chosen."""

    min_tokens: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0


class MinTokens:
    """Removes the tokens that would end the text (`eos`, `stop_token_ids`) from the first positions of the output."""

    name: ClassVar[str] = "min_tokens"
    order: ClassVar[int] = 30
    params: ClassVar[type[msgspec.Struct]] = MinTokensParams

    def __init__(self, max_slots: int) -> None:
        self._first_ends = np.zeros(max_slots, np.int64)
        """First position of the sequence where it may end."""
        self._end_ids: dict[int, npt.NDArray[np.int64]] = {}

    def open(self, slot: int, params: msgspec.Struct, opening: Opening) -> bool:
        """Remember what ends the slot's text, and from where on."""
        assert isinstance(params, MinTokensParams)
        self._first_ends[slot] = opening.num_prompt_tokens + params.min_tokens
        self._end_ids[slot] = np.unique(np.array(opening.end_ids, np.int64))
        if params.min_tokens > 0 and len(opening.end_ids) > 0:
            return True

        self._first_ends[slot] = 0
        return False

    def apply(self, xp: ArrayNamespace, logits: Array, rows: LogitsRows) -> Array:
        """Remove the end tokens of rows that are too short yet."""
        edits = {}
        for row in np.flatnonzero(rows.positions < self._first_ends[rows.slots]).tolist():
            end_ids = self._end_ids[rows.slots[row]]
            edits[row] = end_ids, np.full(len(end_ids), -np.inf, np.float32)
        return add_to(xp, logits, edits)
