"""Top-k: only the k largest logits stay (Fan et al. 2018, "Hierarchical Neural Story Generation")."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import Array, ArrayNamespace
from histrio.contracts.sampler import LogitsRows, Opening
from histrio_samplers.largest_values import MOST_SOUGHT, largest_values

__all__ = ["TopK", "TopKParams"]


class TopKParams(msgspec.Struct, frozen=True):
    """The field `top_k`; 0 and -1 keep every token."""

    top_k: Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)] = 0


class TopK:
    """Removes what is less likely than the k-th most likely token; tokens equal to that one stay."""

    name: ClassVar[str] = "top_k"
    order: ClassVar[int] = 210
    params: ClassVar[type[msgspec.Struct]] = TopKParams

    def __init__(self, max_slots: int) -> None:
        self._ks = np.zeros(max_slots, np.int64)

    def open(self, slot: int, params: msgspec.Struct, opening: Opening) -> bool:
        """Remember the slot's k."""
        assert isinstance(params, TopKParams)
        self._ks[slot] = max(params.top_k, 0)
        return bool(self._ks[slot] > 0)

    def apply(self, xp: ArrayNamespace, logits: Array, rows: LogitsRows) -> Array:
        """Set everything below the row's k-th largest logit to -inf."""
        ks = np.minimum(self._ks[rows.slots], logits.shape[-1])
        thresholds = xp.asarray(np.full((len(ks), 1), -np.inf, np.float32))
        # Rows with a large k are sorted as a whole, and apart, so that they slow down no others.
        for some in (np.flatnonzero((ks > 0) & (ks <= MOST_SOUGHT)), np.flatnonzero(ks > MOST_SOUGHT)):
            if len(some) > 0:
                part = logits if len(some) == len(ks) else xp.take_rows(logits, some)
                thresholds = xp.put_rows(thresholds, some, _kth_largest(xp, part, ks[some]))

        return xp.where(logits < thresholds, -np.inf, logits)


def _kth_largest(xp: ArrayNamespace, logits: Array, ks: npt.NDArray[np.int64]) -> Array:
    """[rows, 1]: the ks[r]-th largest value of each row r; 1 <= ks[r] <= vocab."""
    return xp.take_along(largest_values(xp, logits, int(ks.max())), xp.asarray(ks[:, None] - 1))
