"""Vectors of prompts, for requests that ask for one: made of the hidden states of the last stage, chunk by chunk.

The sum over the chunks that have come is kept with the slot. A sequence that is computed again takes a slot anew, and
its sum begins anew with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import Array, ArrayNamespace
from histrio.errors import PluginFailed
from histrio.messages import Extras, Open, Row

__all__ = ["Pooler"]

NOT_NUMBERS = "the model's numbers overflowed at this request"


@dataclass(slots=True)
class _Sum:
    """What has come of one prompt."""

    num_prompt_tokens: int
    is_of_first: bool
    """Only the state of the first token counts."""
    total: npt.NDArray[np.float64] | float = 0.0
    """[hidden]; 0 before the first chunk."""
    num_states: int = 0

    def add(self, states: npt.NDArray[np.float32]) -> None:
        """[positions, hidden] of the next chunk."""
        if self.is_of_first:
            states = states[: 1 - self.num_states]
        self.total = self.total + states.sum(axis=0, dtype=np.float64)
        self.num_states += len(states)


class Pooler:
    """Keeps one sum for each slot whose request asks for a vector."""

    def __init__(self) -> None:
        self._sums: dict[int, _Sum] = {}

    def open(self, command: Open) -> None:
        """A sequence takes a slot."""
        self.close(command.slot)
        if command.ask.pooling is not None:
            self._sums[command.slot] = _Sum(len(command.ids), command.ask.pooling == "cls")

    def close(self, slot: int) -> None:
        """The slot is free. Closing a free slot does nothing."""
        self._sums.pop(slot, None)

    def pool(self, xp: ArrayNamespace, states: Array | None, rows: Sequence[Row]) -> dict[int, Extras]:
        """Slot → `pooled`, of those sequences whose prompts end in this step. `states` [pooled positions, hidden] are
        those of the step, which are not modified."""
        pooled = [row for row in rows if row.num_pooled]
        if not pooled:
            return {}

        assert states is not None, "hidden states were asked for, and the backend gave none"
        values = xp.to_host(xp.float32(states))
        found: dict[int, Extras] = {}
        at = 0
        for row in pooled:
            first, at = at, at + row.num_pooled
            own = self._sums[row.slot]
            own.add(values[first:at])
            if row.start + row.num_tokens == own.num_prompt_tokens:
                found[row.slot] = _vector(own)
        return found


def _vector(own: _Sum) -> Extras:
    vector = np.asarray(own.total / own.num_states, "<f4")
    if not np.isfinite(vector).all():
        return Extras(NOT_NUMBERS, PluginFailed.code)
    return Extras(pooled=vector.tobytes())
