"""How near texts are: what the model's head says of a pair, or the cosine of the angle between their vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from histrio_api.answer.embeddings import scaled
from histrio_api.answer.vectors import Vector

__all__ = ["head_scores", "similarities"]


def similarities(firsts: Sequence[Vector], seconds: Sequence[Vector]) -> list[float]:
    """Of each pair, from -1 to 1; a single first one belongs to every second."""
    others = [scaled(vector).astype(np.float64) for vector in firsts]
    if len(others) == 1:
        others *= len(seconds)
    return [float(other @ scaled(second)) for other, second in zip(others, seconds, strict=True)]


def head_scores(numbers: Sequence[Vector], *, squeezes: bool) -> list[float]:
    """Of each pair the one number that the head gives, or with `squeezes` its sigmoid, from 0 to 1."""
    scores = [float(number) for (number,) in numbers]
    return [(1 + math.tanh(score / 2)) / 2 for score in scores] if squeezes else scores
