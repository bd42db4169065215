"""Top-p: the smallest set of most likely tokens that holds probability p stays.

Holtzman et al. 2019, "The Curious Case of Neural Text Degeneration". Only the values are sorted, not the tokens: the
sampler needs the smallest logit to keep.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np

from histrio.contracts.backend import Array, ArrayNamespace
from histrio.contracts.sampler import LogitsRows, Opening
from histrio.stage.sampling.inverse_cdf import first_reaching
from histrio_samplers.largest_values import NARROW, largest_values

__all__ = ["TopP", "TopPParams"]

_FEW = 256
"""Where top-k has left so many tokens at most, they are looked for: to sort the whole row takes ten times as long."""


class TopPParams(msgspec.Struct, frozen=True):
    """The field `top_p`; 1 keeps every token."""

    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0


class TopP:
    """Removes what is less likely than the last token needed to reach p; tokens equal to that one stay."""

    name: ClassVar[str] = "top_p"
    order: ClassVar[int] = 220
    params: ClassVar[type[msgspec.Struct]] = TopPParams

    def __init__(self, max_slots: int) -> None:
        self._ps = np.ones(max_slots, np.float32)

    def open(self, slot: int, params: msgspec.Struct, opening: Opening) -> bool:
        """Remember the slot's p."""
        assert isinstance(params, TopPParams)
        self._ps[slot] = params.top_p
        return params.top_p < 1

    def apply(self, xp: ArrayNamespace, logits: Array, rows: LogitsRows) -> Array:
        """Set everything below the row's threshold to -inf."""
        ps = self._ps[rows.slots]
        has_few = np.zeros(len(ps), np.bool_)
        if logits.shape[-1] > NARROW:
            # A row is judged by its own tokens alone: sums of another length may differ in the last bit.
            has_few = xp.to_host(xp.sum(logits > -np.inf))[:, 0] <= _FEW
        thresholds = xp.asarray(np.full((len(ps), 1), -np.inf, np.float32))
        for some, are_few in ((np.flatnonzero((ps < 1) & has_few), True), (np.flatnonzero((ps < 1) & ~has_few), False)):
            if len(some) > 0:
                part = logits if len(some) == len(ps) else xp.take_rows(logits, some)
                values = largest_values(xp, part, _FEW if are_few else part.shape[-1])
                last, _ = first_reaching(xp, xp.softmax(values), ps[some])
                thresholds = xp.put_rows(thresholds, some, xp.take_along(values, xp.asarray(last[:, None])))

        return xp.where(logits < thresholds, -np.inf, logits)
