"""The largest values of each row, by the quicker way: looked for, or of rows sorted as a whole."""

from __future__ import annotations

from histrio.contracts.backend import Array, ArrayNamespace

__all__ = ["MOST_SOUGHT", "NARROW", "largest_values"]

MOST_SOUGHT = 1024
"""Most values that are searched for; for more of them the row is sorted."""
NARROW = 1024
"""Rows up to this long are sorted in less time than their largest values are looked for."""


def largest_values(xp: ArrayNamespace, logits: Array, num_values: int) -> Array:
    """[rows, num_values or more]: the largest of each row of `logits` [rows, vocab], in descending order."""
    if num_values <= MOST_SOUGHT and logits.shape[-1] > NARROW:
        return xp.topk(logits, num_values)[0]
    return xp.sorted_values(logits)
