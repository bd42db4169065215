"""Logit bias: numbers a client adds to the logits of tokens it names."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import Array, ArrayNamespace
from histrio.contracts.sampler import LogitsRows, Opening, TokenIdKey
from histrio_samplers.edits import add_to

__all__ = ["LogitBias", "LogitBiasParams"]

_Bias = Annotated[float, msgspec.Meta(ge=-100, le=100)]


class LogitBiasParams(msgspec.Struct, frozen=True):
    """The field `logit_bias`: token id (as JSON has keys, a string) → bias. -100 all but bans a token."""

    logit_bias: Annotated[
        dict[TokenIdKey, _Bias],
        msgspec.Meta(
            max_length=4096,
            description="an object of at most 4096 token ids, each with a number at least -100 and at most 100",
        ),
    ] = {}


class LogitBias:
    """Adds the client's numbers."""

    name: ClassVar[str] = "logit_bias"
    order: ClassVar[int] = 40
    params: ClassVar[type[msgspec.Struct]] = LogitBiasParams

    def __init__(self, max_slots: int) -> None:
        self._biases: dict[int, tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]] = {}

    def open(self, slot: int, params: msgspec.Struct, opening: Opening) -> bool:
        """Remember the slot's biases."""
        assert isinstance(params, LogitBiasParams)
        self._biases.pop(slot, None)
        biases = {int(token): bias for token, bias in params.logit_bias.items()}
        if not biases:
            return False

        self._biases[slot] = np.array(list(biases), np.int64), np.array(list(biases.values()), np.float32)
        return True

    def apply(self, xp: ArrayNamespace, logits: Array, rows: LogitsRows) -> Array:
        """Add the biases of each row."""
        slots = rows.slots.tolist()
        return add_to(xp, logits, {row: self._biases[slot] for row, slot in enumerate(slots) if slot in self._biases})
