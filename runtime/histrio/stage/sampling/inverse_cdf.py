"""The draw: inverse CDF over what the truncations left, in vocabulary order, with one given uniform number per row.

Vocabulary order (and not descending probability) keeps a draw stable where two backends or splits differ in the last
bits: nearly equal probabilities that change places do not move the distribution function. The running sum over a
vocabulary is taken in two steps: the device adds up blocks, and only the block where the sum crosses is looked at
closely. Both are summed on the host in float64, so the sum never runs backwards, as a parallel one may.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import Array, ArrayNamespace

__all__ = ["draw", "first_reaching"]

_BLOCK = 128
_NUM_SUMMED_AT_ONCE = 2048
"""Rows up to this long are summed on the host as a whole."""


def draw(
    xp: ArrayNamespace, logits: Array, uniforms: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
    """One index per row of float32 `logits` [rows, vocab], with `uniforms` [rows] in (0, 1); and its probability.

    Index j is drawn with probability softmax(logits)[j] up to the 2^-23 grid of the numbers; a removed token (-inf) is
    never drawn. The index is -1 in a row that has no distribution (NaN, or nothing left).
    """
    weights = xp.softmax(logits)
    ids, totals = first_reaching(xp, weights, uniforms)
    probabilities = xp.to_host(xp.take_along(weights, xp.asarray(ids[:, None])))[:, 0]
    return np.where(totals > 0, ids, -1), probabilities


def first_reaching(
    xp: ArrayNamespace, weights: Array, shares: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Per row of `weights` [rows, n], all >= 0: where their running sum first reaches the share of their total.

    `shares` [rows] are in (0, 1]. Returns indices and totals, both [rows] on the host. The weight found is above 0,
    unless the total is 0 or not a number.
    """
    if weights.shape[-1] <= _NUM_SUMMED_AT_ONCE:
        ends = _running_sums(xp.to_host(weights))
        totals = ends[:, -1]
        return _count_below(ends, shares * totals), totals

    ends = _running_sums(xp.to_host(xp.block_sums(weights, _BLOCK)))
    totals = ends[:, -1]
    targets = shares * totals
    blocks = _count_below(ends, targets)
    needed = targets - np.where(blocks > 0, ends[np.arange(len(blocks)), blocks - 1], 0)

    columns = blocks[:, None] * _BLOCK + np.arange(_BLOCK)
    last = weights.shape[-1] - 1
    found = xp.to_host(xp.take_along(weights, xp.asarray(np.minimum(columns, last))))
    inside = np.where(columns <= last, found, 0).cumsum(axis=1, dtype=np.float64)
    # The device rounds a block's sum: what is needed of the block must not be more than is in it.
    return blocks * _BLOCK + _count_below(inside, np.minimum(needed, inside[:, -1])), totals


def _running_sums(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """[rows, at most n]: of `weights` [rows, n], without the columns at the end where every row has 0: of sorted
    weights, whatever the truncations before have removed."""
    used = np.flatnonzero(weights.any(axis=0))
    return weights[:, : used[-1] + 1 if len(used) else 1].cumsum(axis=1, dtype=np.float64)


def _count_below(ends: npt.NDArray[np.float64], targets: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """[rows]: index of the first of ascending `ends` [rows, n] that is not below the row's target; none is above the
    last of them."""
    return np.asarray((ends < targets[:, None]).argmin(axis=1))
