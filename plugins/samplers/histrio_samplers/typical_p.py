"""Typical-p: the tokens whose information is closest to the expected one, enough of them to hold probability p, stay.

Meister et al. 2022, "Locally Typical Sampling". The set nearly always lies within the closest thousand, and finding
those is much cheaper than ranking a vocabulary: only rows where they do not hold p are looked at further. How far
depends on that row alone.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from histrio.backend import Array, ArrayNamespace
from histrio.draw import first_reaching
from histrio.sampling import Opening, Rows

__all__ = ["TypicalP", "TypicalPParams"]

_NUM_TRIED = (1024, 16384)


class TypicalPParams(msgspec.Struct, frozen=True):
    """The field `typical_p`; 1 keeps every token."""

    typical_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0


class TypicalP:
    """Removes what is more or less surprising than the last token needed to reach p; tokens as far off as it stay."""

    name: ClassVar[str] = "typical_p"
    order: ClassVar[int] = 240
    params: ClassVar[type[msgspec.Struct]] = TypicalPParams

    def __init__(self, max_rows: int) -> None:
        self._ps = np.ones(max_rows, np.float32)

    def open(self, slot: int, params: msgspec.Struct, opening: Opening) -> bool:
        """Remember the slot's p."""
        assert isinstance(params, TypicalPParams)
        self._ps[slot] = params.typical_p
        return params.typical_p < 1

    def apply(self, xp: ArrayNamespace, logits: Array, rows: Rows) -> Array:
        """Set everything further from the expected information than the row's threshold to -inf."""
        ps = self._ps[rows.slots]
        limited = np.flatnonzero(ps < 1)
        part = logits if len(limited) == len(ps) else xp.take_rows(logits, limited)
        typical = _typical(xp, part, ps[limited])
        return typical if len(limited) == len(ps) else xp.put_rows(logits, limited, typical)


def _typical(xp: ArrayNamespace, logits: Array, ps: npt.NDArray[np.float32]) -> Array:
    logprobs, probabilities = xp.log_softmax(logits), xp.softmax(logits)
    entropy = -xp.sum(probabilities * xp.where(probabilities > 0, logprobs, 0.0))
    # Removed tokens are infinitely far off.
    closeness = -abs(logprobs + entropy)
    thresholds = xp.asarray(np.zeros((len(ps), 1), np.float32))
    rest, vocab = np.arange(len(ps)), logits.shape[-1]
    for width in (*(width for width in _NUM_TRIED if width < vocab), vocab):
        part = closeness if len(rest) == len(ps) else xp.take_rows(closeness, rest)
        nearest, indices = xp.topk(part, width)
        weights = probabilities if len(rest) == len(ps) else xp.take_rows(probabilities, rest)
        found, is_enough = _last_needed(xp, xp.take_along(weights, indices), ps[rest], is_all=width == vocab)
        thresholds = xp.put_rows(thresholds, rest, xp.take_along(nearest, xp.asarray(found[:, None])))
        rest = rest[~is_enough]
        if len(rest) == 0:
            break

    return xp.where(closeness < thresholds, -np.inf, logits)


def _last_needed(
    xp: ArrayNamespace, weights: Array, ps: npt.NDArray[np.float32], *, is_all: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Per row, the index where the sum of ranked probabilities reaches p; and whether these were enough to tell."""
    totals = xp.to_host(xp.sum(weights))[:, 0]
    is_enough = (totals >= ps) | is_all
    shares = np.where(is_enough & (totals > 0), np.minimum(ps / np.maximum(totals, 1e-30), 1), 1)
    found, _ = first_reaching(xp, weights, shares.astype(np.float32))
    return found, is_enough
