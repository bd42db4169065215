"""Presence and frequency penalty: tokens of the output become less likely, once and for each time they occurred.

As OpenAI's API defines them: logit − presence_penalty − frequency_penalty × count. The prompt does not count.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import Array, ArrayNamespace
from histrio.contracts.sampler import LogitsRows, Opening, Slots
from histrio_samplers.edits import padded
from histrio_samplers.token_counts import TokenCounts, counts_of

__all__ = ["OccurrencePenalties", "OccurrencePenaltiesParams"]

_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]


class OccurrencePenaltiesParams(msgspec.Struct, frozen=True):
    """The fields `presence_penalty` and `frequency_penalty`; 0 does nothing, less encourages repetition."""

    presence_penalty: _Penalty = 0.0
    frequency_penalty: _Penalty = 0.0


class OccurrencePenalties:
    """Lowers the logits of tokens that were generated before."""

    name: ClassVar[str] = "occurrence_penalties"
    order: ClassVar[int] = 60
    params: ClassVar[type[msgspec.Struct]] = OccurrencePenaltiesParams

    def __init__(self, max_slots: int) -> None:
        self._presence = np.zeros((max_slots, 1), np.float32)
        self._frequency = np.zeros((max_slots, 1), np.float32)
        self._counts: dict[int, TokenCounts] = {}

    def open(self, slot: int, params: msgspec.Struct, opening: Opening) -> bool:
        """Remember the slot's penalties and what was generated so far."""
        assert isinstance(params, OccurrencePenaltiesParams)
        self._presence[slot] = params.presence_penalty
        self._frequency[slot] = params.frequency_penalty
        self._counts.pop(slot, None)
        if params == OccurrencePenaltiesParams():
            return False

        self._counts[slot] = TokenCounts(opening.ids[opening.num_prompt_tokens :])
        return True

    def observe(self, slots: Slots, ids: npt.NDArray[Any], probabilities: npt.NDArray[np.float32]) -> None:
        """Count one more token in each of these slots."""
        for slot, token in zip(slots.tolist(), ids.tolist(), strict=True):
            self._counts[slot].add(token)

    def apply(self, xp: ArrayNamespace, logits: Array, rows: LogitsRows) -> Array:
        """Subtract the penalties of each row."""
        tokens, counts = padded(counts_of(self._counts, rows), logits.shape, neutral=0)
        penalties = self._frequency[rows.slots] * counts + self._presence[rows.slots] * (counts > 0)
        indices = xp.asarray(tokens)
        return xp.put_along(logits, indices, xp.take_along(logits, indices) - xp.asarray(penalties))
