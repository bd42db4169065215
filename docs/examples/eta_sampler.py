"""A sampler in one file: eta sampling removes tokens below a limit that sinks where the model is unsure.

Hewitt et al. 2022, "Truncation Sampling as Language Model Desmoothing". Install it with an entry point of the group
`histrio` that names this module; requests may have a field `eta_cutoff` from then on.
"""

import math
from collections.abc import Callable
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from histrio.contracts.backend import Array, ArrayNamespace
from histrio.contracts.hooks import hookimpl
from histrio.contracts.sampler import LogitsRows, Opening, Sampler


class EtaParams(msgspec.Struct, frozen=True):
    """The request field and its bounds; its default does nothing."""

    eta_cutoff: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0


class Eta:
    """Works on all rows at once, through the array functions of whatever backend runs the last stage."""

    name: ClassVar[str] = "eta"
    order: ClassVar[int] = 250
    params: ClassVar[type[msgspec.Struct]] = EtaParams

    def __init__(self, max_slots: int) -> None:
        self._cutoffs = np.zeros(max_slots, np.float32)

    def open(self, slot: int, params: msgspec.Struct, opening: Opening) -> bool:
        """Remember what this sequence asked for, and say whether it asked for anything."""
        assert isinstance(params, EtaParams)
        self._cutoffs[slot] = params.eta_cutoff
        return params.eta_cutoff > 0

    def apply(self, xp: ArrayNamespace, logits: Array, rows: LogitsRows) -> Array:
        """Remove (-inf) what is too unlikely; rows that did not ask have the limit 0 and stay as they are."""
        cutoffs = xp.asarray(self._cutoffs[rows.slots][:, None])
        probabilities, logprobs = xp.softmax(logits), xp.log_softmax(logits)
        entropy = -xp.sum(probabilities * xp.where(probabilities > 0, logprobs, 0.0))
        sinking = cutoffs**0.5 * math.e**-entropy
        limits = xp.where(sinking < cutoffs, sinking, cutoffs)
        return xp.where((probabilities < limits) & (logits < xp.max(logits)), -math.inf, logits)


@hookimpl
def register_samplers(register: Callable[[type[Sampler]], None]) -> None:
    """Called once at start-up."""
    register(Eta)
