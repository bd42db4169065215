"""A sampler in one file: min-p keeps the tokens that are at least `min_p` times as likely as the most likely one.

Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling". Install it with an entry point of the group `histrio` that
names this module; requests may have a field `min_p` from then on.
"""

import math
from collections.abc import Callable
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from histrio.backend import Array, ArrayNamespace
from histrio.hooks import hookimpl
from histrio.sampling import Sampler, Slots


class MinPParams(msgspec.Struct, frozen=True):
    """The request field and its bounds; its default does nothing."""

    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0


class MinP:
    """Works on all rows at once, through the array functions of whatever backend runs the last stage."""

    name: ClassVar[str] = "min_p"
    order: ClassVar[int] = 220
    params: ClassVar[type[msgspec.Struct]] = MinPParams

    def __init__(self, max_rows: int) -> None:
        self._log_min_ps = np.full(max_rows, -np.inf, np.float32)

    def open(self, slot: int, params: msgspec.Struct, ids: list[int], num_prompt_tokens: int) -> None:
        """Remember what this sequence asked for."""
        assert isinstance(params, MinPParams)
        self._log_min_ps[slot] = math.log(params.min_p) if params.min_p > 0 else -math.inf

    def needed(self, slots: Slots) -> bool:
        """Whether any row asked for anything."""
        return bool((self._log_min_ps[slots] > -math.inf).any())

    def apply(self, xp: ArrayNamespace, logits: Array, slots: Slots) -> Array:
        """Remove (-inf) what is too unlikely; rows that did not ask have the limit -inf and stay as they are."""
        largest, _ = xp.topk(logits, 1)
        limits = largest + xp.asarray(self._log_min_ps[slots][:, None])
        return xp.where(logits < limits, -math.inf, logits)


@hookimpl
def register_samplers(register: Callable[[type[Sampler]], None]) -> None:
    """Called once at start-up."""
    register(MinP)
