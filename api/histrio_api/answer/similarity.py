"""How near texts are: the cosine of the angle between their vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from histrio_api.answer.embeddings import scaled
from histrio_api.answer.vectors import Vector

__all__ = ["similarities"]


def similarities(firsts: Sequence[Vector], seconds: Sequence[Vector]) -> list[float]:
    """Of each pair, from -1 to 1; a single first one belongs to every second."""
    others = [scaled(vector).astype(np.float64) for vector in firsts]
    if len(others) == 1:
        others *= len(seconds)
    return [float(other @ scaled(second)) for other, second in zip(others, seconds, strict=True)]
