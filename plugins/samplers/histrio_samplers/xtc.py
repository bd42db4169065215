"""XTC, "exclude top choices": now and then the most likely tokens are removed, all but the least likely good one.

By p-e-w, text-generation-webui pull request 6335 (2024). Good is what has at least the threshold's probability. Whether
it happens at a position is decided by that position's own random number, so it happens again on a replay.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np

from histrio.contracts.backend import Array, ArrayNamespace
from histrio.contracts.sampler import LogitsRows, Opening

__all__ = ["Xtc", "XtcParams"]

_NOTHING_REACHES = 2.0


class XtcParams(msgspec.Struct, frozen=True):
    """`xtc_probability` of removing at a position, 0 never does; above 0.5, `xtc_threshold` has no effect."""

    xtc_probability: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    xtc_threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1


class Xtc:
    """Removes what is more likely than the least likely token that reaches the threshold."""

    name: ClassVar[str] = "xtc"
    order: ClassVar[int] = 260
    params: ClassVar[type[msgspec.Struct]] = XtcParams

    def __init__(self, max_slots: int) -> None:
        self._probabilities = np.zeros(max_slots, np.float32)
        self._thresholds = np.zeros(max_slots, np.float32)

    def open(self, slot: int, params: msgspec.Struct, opening: Opening) -> bool:
        """Remember the slot's probability and threshold."""
        assert isinstance(params, XtcParams)
        self._probabilities[slot] = params.xtc_probability
        self._thresholds[slot] = params.xtc_threshold
        return params.xtc_probability > 0

    def apply(self, xp: ArrayNamespace, logits: Array, rows: LogitsRows) -> Array:
        """Set the top choices of those rows to -inf whose turn it is."""
        is_turn = rows.uniform(self.name) < self._probabilities[rows.slots]
        if not is_turn.any():
            return logits

        thresholds = np.where(is_turn, self._thresholds[rows.slots], _NOTHING_REACHES).astype(np.float32)
        is_good = xp.softmax(logits) >= xp.asarray(thresholds[:, None])
        # inf where nothing is good, and then nothing is removed.
        least_good = -xp.max(xp.where(is_good & (logits > -np.inf), -logits, -np.inf))
        return xp.where(logits > least_good, -np.inf, logits)
