"""Top-p: the smallest set of most likely tokens that holds probability p stays.

Holtzman et al. 2019, "The Curious Case of Neural Text Degeneration". Only the values are sorted, not the tokens: what
is wanted is the smallest logit to keep.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np

from histrio.backend import Array, ArrayNamespace
from histrio.draw import first_reaching
from histrio.sampling import Opening, Rows

__all__ = ["TopP", "TopPParams"]


class TopPParams(msgspec.Struct, frozen=True):
    """The field `top_p`; 1 keeps every token."""

    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0


class TopP:
    """Removes what is less likely than the last token needed to reach p; tokens equal to that one stay."""

    name: ClassVar[str] = "top_p"
    order: ClassVar[int] = 220
    params: ClassVar[type[msgspec.Struct]] = TopPParams

    def __init__(self, max_rows: int) -> None:
        self._ps = np.ones(max_rows, np.float32)

    def open(self, slot: int, params: msgspec.Struct, opening: Opening) -> bool:
        """Remember the slot's p."""
        assert isinstance(params, TopPParams)
        self._ps[slot] = params.top_p
        return params.top_p < 1

    def apply(self, xp: ArrayNamespace, logits: Array, rows: Rows) -> Array:
        """Set everything below the row's threshold to -inf."""
        ps = self._ps[rows.slots]
        limited = np.flatnonzero(ps < 1)
        values = xp.sorted_values(logits if len(limited) == len(ps) else xp.take_rows(logits, limited))
        last, _ = first_reaching(xp, xp.softmax(values), ps[limited])
        thresholds = xp.asarray(np.full((len(ps), 1), -np.inf, np.float32))
        thresholds = xp.put_rows(thresholds, limited, xp.take_along(values, xp.asarray(last[:, None])))
        return xp.where(logits < thresholds, -np.inf, logits)
