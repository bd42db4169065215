"""The draw: inverse CDF over what the truncations left, in vocabulary order, with one given uniform number per row.

Vocabulary order (and not descending probability) keeps a draw stable where two backends or splits differ in the last
bits: nearly equal probabilities that change places do not move the distribution function.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from histrio.backend import Array, ArrayNamespace
from histrio.errors import BackendError

__all__ = ["draw"]


def draw(xp: ArrayNamespace, logits: Array, uniforms: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """One index per row of float32 `logits` [rows, vocab], with `uniforms` [rows] in (0, 1).

    Index j is drawn where the distribution function first exceeds the uniform number, so with probability
    softmax(logits)[j] up to the 2^-23 grid of the numbers; a removed token (-inf) is never drawn. Raises `BackendError`
    if a row has no distribution (NaN, or nothing left).
    """
    probabilities = xp.softmax(logits)
    cdf = xp.cumsum(probabilities)
    total = cdf[:, -1:]
    target = xp.asarray(uniforms[:, None]) * total
    # A product may round up to the total, and a parallel cumsum may dip by an ulp: never run past a possible token.
    target = xp.where(target < total, target, 0.0)
    is_hit = (cdf > target) & (probabilities > 0)
    if not (xp.to_host(total) > 0).all():
        raise BackendError("the model's logits are not numbers, or a sampler removed every token: nothing to draw from")

    return xp.to_host(xp.argmax(xp.where(is_hit, 1.0, 0.0)))
