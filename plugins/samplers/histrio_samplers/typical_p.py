"""Typical-p: tokens about as surprising as one should expect, as many of them as hold probability p, stay.

Meister et al. 2022, "Locally Typical Sampling". Ranked by probability, such tokens are neighbours: tokens that are
too likely come before them, tokens that are too unlikely behind. So it is enough to sort the values, not the tokens,
and then to find where the set has to begin and to end.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import Array, ArrayNamespace
from histrio.contracts.sampler import LogitsRows, Opening

__all__ = ["TypicalP", "TypicalPParams"]

Values = npt.NDArray[Any]

_BLOCK = 128


class TypicalPParams(msgspec.Struct, frozen=True):
    """The field `typical_p`; 1 keeps every token."""

    typical_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0


class TypicalP:
    """Removes what is more or less surprising than the last token needed to reach p; tokens as far off as it stay."""

    name: ClassVar[str] = "typical_p"
    order: ClassVar[int] = 240
    params: ClassVar[type[msgspec.Struct]] = TypicalPParams

    def __init__(self, max_slots: int) -> None:
        self._ps = np.ones(max_slots, np.float32)

    def open(self, slot: int, params: msgspec.Struct, opening: Opening) -> bool:
        """Remember the slot's p."""
        assert isinstance(params, TypicalPParams)
        self._ps[slot] = params.typical_p
        return params.typical_p < 1

    def apply(self, xp: ArrayNamespace, logits: Array, rows: LogitsRows) -> Array:
        """Set everything further from the expected information than the row's threshold to -inf."""
        ps = self._ps[rows.slots]
        limited = np.flatnonzero(ps < 1)
        part = logits if len(limited) == len(ps) else xp.take_rows(logits, limited)
        typical = _typical(xp, part, ps[limited])
        return typical if len(limited) == len(ps) else xp.put_rows(logits, limited, typical)


def _typical(xp: ArrayNamespace, logits: Array, ps: npt.NDArray[np.float32]) -> Array:
    logprobs = xp.log_softmax(logits)
    ranked = xp.sorted_values(logprobs)
    probabilities = xp.softmax(ranked)
    entropy = -xp.sum(probabilities * xp.where(probabilities > 0, ranked, 0.0))
    host = (xp.to_host(part) for part in (abs(ranked + entropy), probabilities, xp.block_sums(probabilities, _BLOCK)))
    reached = [_Ranked(*row).reach(p) for *row, p in zip(*host, ps.tolist(), strict=True)]
    # Removed tokens are infinitely far off, and stay removed.
    return xp.where(abs(logprobs + entropy) > xp.asarray(np.array(reached, np.float32)[:, None]), -np.inf, logits)


class _Ranked:
    """The tokens of one row, the most likely first: distance from the expected information, and probability.

    Distances fall up to the nearest token, and rise behind it: two ascending lists.
    """

    def __init__(self, distances: Values, probabilities: Values, blocks: Values) -> None:
        self._probabilities = probabilities
        self._ends = np.concatenate([[0], blocks.cumsum(dtype=np.float64)])
        self._nearest = int(distances.argmin())
        self._before = np.ascontiguousarray(distances[: self._nearest][::-1])
        self._behind = distances[self._nearest :]

    def reach(self, p: float) -> float:
        """The least distance within which the tokens hold p."""
        p = min(p, self._ends[-1])
        num_before = bisect_left(range(len(self._before)), p, key=self._mass_within)
        num_behind = bisect_left(range(len(self._behind)), p, key=lambda last: self._mass(num_before, last + 1))
        return min(_at(self._before, num_before), _at(self._behind, num_behind))

    def _mass_within(self, last: int) -> float:
        """The probability of all tokens as near as this one of those before."""
        return self._mass(last + 1, int(self._behind.searchsorted(self._before[last], "right")))

    def _mass(self, num_before: int, num_behind: int) -> float:
        return self._up_to(self._nearest + num_behind) - self._up_to(self._nearest - num_before)

    def _up_to(self, rank: int) -> float:
        block = rank // _BLOCK
        inside = self._probabilities[block * _BLOCK : rank]
        return float(self._ends[block] + inside.sum(dtype=np.float64))


def _at(distances: Values, index: int) -> float:
    return float(distances[index]) if index < len(distances) else math.inf
