"""A few combinations of many settings in which every two settings meet in all their values."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

__all__ = ["NUM_RANDOM", "Combination", "covering", "pairs", "random_combinations"]

Combination = dict[str, Any]
Pair = tuple[str, str, str, str]
"""Two settings and their values, as text."""

NUM_RANDOM = int(os.environ.get("HISTRIO_COMBINATIONS", "0"))
"""With `HISTRIO_COMBINATIONS=500`, so many random combinations are played per drafter beside the covering few."""

_NUM_TRIED = 60


def covering(factors: Mapping[str, Sequence[Any]], seed: int) -> list[Combination]:
    """Each row is the best of some random ones that have a pair of values which no row before has."""
    rng = random.Random(seed)
    missing = {
        (one, other, repr(value), repr(another))
        for one, other in combinations(factors, 2)
        for value in factors[one]
        for another in factors[other]
    }
    rows = []
    while missing:
        one, other, value, another = min(missing)
        tried = [_draw(factors, rng) for _ in range(_NUM_TRIED)]
        for row in tried:
            row[one] = next(each for each in factors[one] if repr(each) == value)
            row[other] = next(each for each in factors[other] if repr(each) == another)
        best = max(tried, key=lambda row: len(missing & set(pairs(row))))
        missing.difference_update(pairs(best))
        rows.append(best)
    return rows


def random_combinations(factors: Mapping[str, Sequence[Any]], seed: int, count: int) -> list[Combination]:
    """So many, each value drawn by itself."""
    rng = random.Random(seed)
    return [_draw(factors, rng) for _ in range(count)]


def pairs(row: Combination) -> Iterator[Pair]:
    """Every two settings of a combination."""
    return ((one, other, repr(row[one]), repr(row[other])) for one, other in combinations(row, 2))


def _draw(factors: Mapping[str, Sequence[Any]], rng: random.Random) -> Combination:
    return {name: rng.choice(values) for name, values in factors.items()}
