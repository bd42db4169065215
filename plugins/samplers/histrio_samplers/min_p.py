"""Min-p: tokens that are at least `min_p` times as likely as the most likely one stay.

Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs".
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from histrio.contracts.backend import Array, ArrayNamespace
from histrio.contracts.sampler import LogitsRows, Opening

__all__ = ["MinP", "MinPParams"]


class MinPParams(msgspec.Struct, frozen=True):
    """The field `min_p`; 0 keeps every token."""

    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0


class MinP:
    """Removes what is too unlikely beside the most likely token: as many tokens stay as the model has good ideas."""

    name: ClassVar[str] = "min_p"
    order: ClassVar[int] = 230
    params: ClassVar[type[msgspec.Struct]] = MinPParams

    def __init__(self, max_slots: int) -> None:
        self._log_min_ps = np.full(max_slots, -np.inf, np.float32)

    def open(self, slot: int, params: msgspec.Struct, opening: Opening) -> bool:
        """Remember the slot's limit, as a difference of logits."""
        assert isinstance(params, MinPParams)
        self._log_min_ps[slot] = math.log(params.min_p) if params.min_p > 0 else -math.inf
        return params.min_p > 0

    def apply(self, xp: ArrayNamespace, logits: Array, rows: LogitsRows) -> Array:
        """Set everything below the row's limit to -inf."""
        limits = xp.max(logits) + xp.asarray(self._log_min_ps[rows.slots][:, None])
        return xp.where(logits < limits, -np.inf, logits)
