"""Repetition penalty: tokens that stand in the prompt or in the output already become less likely.

Keskar et al. 2019, "CTRL": a positive logit is divided by the penalty, a negative one multiplied with it. llama.cpp and
Ollama look at the last tokens alone, which is their `repeat_last_n`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import Array, ArrayNamespace
from histrio.contracts.sampler import LogitsRows, Opening, Slots
from histrio_samplers.edits import padded
from histrio_samplers.token_counts import TokenCounts, Window, counts_of

__all__ = ["RepetitionPenalty", "RepetitionPenaltyParams"]


class RepetitionPenaltyParams(msgspec.Struct, frozen=True):
    """A `repetition_penalty` of 1 does nothing, less encourages repetition. It looks at the last `repeat_last_n` tokens
    of prompt and output, at all with -1, and at none with 0."""

    repetition_penalty: Annotated[float, msgspec.Meta(ge=0.01, le=100)] = 1.0
    repeat_last_n: Window = -1


class RepetitionPenalty:
    """Scales the logits of all tokens of the sequence, however often they occurred."""

    name: ClassVar[str] = "repetition_penalty"
    order: ClassVar[int] = 50
    params: ClassVar[type[msgspec.Struct]] = RepetitionPenaltyParams

    def __init__(self, max_slots: int) -> None:
        self._penalties = np.ones(max_slots, np.float32)
        self._counts: dict[int, TokenCounts] = {}

    def open(self, slot: int, params: msgspec.Struct, opening: Opening) -> bool:
        """Remember the slot's penalty and which tokens are there."""
        assert isinstance(params, RepetitionPenaltyParams)
        self._penalties[slot] = params.repetition_penalty
        self._counts.pop(slot, None)
        if params.repetition_penalty == 1 or params.repeat_last_n == 0:
            return False

        self._counts[slot] = TokenCounts(opening.ids, params.repeat_last_n)
        return True

    def observe(self, slots: Slots, ids: npt.NDArray[Any], probabilities: npt.NDArray[np.float32]) -> None:
        """Count one more token in each of these slots."""
        for slot, token in zip(slots.tolist(), ids.tolist(), strict=True):
            self._counts[slot].add(token)

    def apply(self, xp: ArrayNamespace, logits: Array, rows: LogitsRows) -> Array:
        """Penalise the tokens of each row; those of other rows are divided by 1."""
        tokens, _ = padded(counts_of(self._counts, rows), logits.shape, neutral=0)
        indices, penalties = xp.asarray(tokens), xp.asarray(self._penalties[rows.slots][:, None])
        values = xp.take_along(logits, indices)
        return xp.put_along(logits, indices, xp.where(values > 0, values / penalties, values * penalties))
