"""Presence and frequency penalty: tokens of the output become less likely, once and for each time they occurred.

As OpenAI's API defines them: logit − presence_penalty − frequency_penalty × count. The prompt does not count, unless a
window is given: llama.cpp and Ollama count the last tokens of prompt and output.
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

__all__ = ["OccurrencePenalties", "OccurrencePenaltiesParams"]

_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]


class OccurrencePenaltiesParams(msgspec.Struct, frozen=True):
    """A `presence_penalty` or `frequency_penalty` of 0 does nothing, less encourages repetition. With
    `occurrence_last_n` they count so many of the last tokens, those of the prompt too; all with -1, none with 0."""

    presence_penalty: _Penalty = 0.0
    frequency_penalty: _Penalty = 0.0
    occurrence_last_n: Window | None = None


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
        window = params.occurrence_last_n
        if params.presence_penalty == params.frequency_penalty == 0 or window == 0:
            return False

        if window is None:
            self._counts[slot] = TokenCounts(opening.ids[opening.num_prompt_tokens :])
        else:
            self._counts[slot] = TokenCounts(opening.ids, window)
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
