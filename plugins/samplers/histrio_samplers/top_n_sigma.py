"""Top-n-sigma: tokens whose logit is at most n standard deviations below the largest one stay.

Tang et al. 2024, "Top-n-sigma: Not All Logits Are You Need". Mean and deviation are of the logits that no other sampler
has removed; dividing all of them by a temperature does not change which tokens stay.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np

from histrio.contracts.backend import Array, ArrayNamespace
from histrio.contracts.sampler import LogitsRows, Opening

__all__ = ["TopNSigma", "TopNSigmaParams"]


class TopNSigmaParams(msgspec.Struct, frozen=True):
    """The field `top_n_sigma`; 0 and -1 keep every token."""

    top_n_sigma: Annotated[float, msgspec.Meta(ge=-1, le=1000)] = 0.0


class TopNSigma:
    """Removes the bulk of the vocabulary, which is noise around one mean."""

    name: ClassVar[str] = "top_n_sigma"
    order: ClassVar[int] = 200
    params: ClassVar[type[msgspec.Struct]] = TopNSigmaParams

    def __init__(self, max_slots: int) -> None:
        self._ns = np.full(max_slots, np.inf, np.float32)

    def open(self, slot: int, params: msgspec.Struct, opening: Opening) -> bool:
        """Remember the slot's n."""
        assert isinstance(params, TopNSigmaParams)
        self._ns[slot] = params.top_n_sigma if params.top_n_sigma > 0 else np.inf
        return params.top_n_sigma > 0

    def apply(self, xp: ArrayNamespace, logits: Array, rows: LogitsRows) -> Array:
        """Set everything below largest - n * deviation to -inf."""
        ns = self._ns[rows.slots]
        limited = np.flatnonzero(np.isfinite(ns))
        part = logits if len(limited) == len(ns) else xp.take_rows(logits, limited)
        is_there = part > -np.inf
        count = xp.sum(xp.where(is_there, 1.0, 0.0))
        count = xp.where(count > 0, count, 1.0)
        largest = xp.max(xp.where(is_there, part, np.finfo(np.float32).min.item()))
        # Distances to the largest logit, not the logits themselves, which may be far from 0 as a whole.
        below = xp.where(is_there, part - largest, 0.0)
        mean = xp.sum(below) / count
        deviation = (xp.sum(xp.where(is_there, (below - mean) ** 2, 0.0)) / count) ** 0.5
        thresholds = xp.asarray(np.full((len(ns), 1), -np.inf, np.float32))
        limits = largest - deviation * xp.asarray(ns[limited][:, None])
        return xp.where(logits < xp.put_rows(thresholds, limited, xp.float32(limits)), -np.inf, logits)
