"""Temperature: logits divided by it, as in softmax(logits / temperature)."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np

from histrio.contracts.backend import Array, ArrayNamespace
from histrio.contracts.sampler import LogitsRows, Opening

__all__ = ["Temperature", "TemperatureParams"]

_LEAST = 1e-4
"""Smaller temperatures count as this one: colder changes no draw, and float32 would overflow."""


class TemperatureParams(msgspec.Struct, frozen=True):
    """The field `temperature`; 0 is greedy, which the chain does itself."""

    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 1.0


class Temperature:
    """Sharpens (below 1) or flattens (above 1) the distribution before anything is truncated."""

    name: ClassVar[str] = "temperature"
    order: ClassVar[int] = 100
    params: ClassVar[type[msgspec.Struct]] = TemperatureParams

    def __init__(self, max_slots: int) -> None:
        self._temperatures = np.ones(max_slots, np.float32)

    def open(self, slot: int, params: msgspec.Struct, opening: Opening) -> bool:
        """Remember the slot's temperature."""
        assert isinstance(params, TemperatureParams)
        self._temperatures[slot] = max(params.temperature, _LEAST)
        return params.temperature != 1

    def apply(self, xp: ArrayNamespace, logits: Array, rows: LogitsRows) -> Array:
        """Divide each row; rows of temperature 1 stay exactly as they are."""
        logits /= xp.asarray(self._temperatures[rows.slots][:, None])
        return logits
