"""Top-p: the smallest set of most likely tokens that holds probability p stays.

Holtzman et al. 2019, "The Curious Case of Neural Text Degeneration". The set nearly always lies within the most likely
1024 tokens, and finding those is some twenty times cheaper than sorting a vocabulary: only a row where they do not hold
p is looked at further, and at last completely. How far depends on that row alone.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from histrio.backend import Array, ArrayNamespace
from histrio.sampling import Slots

__all__ = ["TopP", "TopPParams"]

_NUM_TRIED = (1024, 16384)


class TopPParams(msgspec.Struct, frozen=True):
    """The field `top_p`; 1 keeps every token."""

    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0


class TopP:
    """Removes what is less likely than the last token needed to reach p; tokens equal to that one stay."""

    name: ClassVar[str] = "top_p"
    order: ClassVar[int] = 210
    params: ClassVar[type[msgspec.Struct]] = TopPParams

    def __init__(self, max_rows: int) -> None:
        self._ps = np.ones(max_rows, np.float32)

    def open(self, slot: int, params: msgspec.Struct, ids: list[int], num_prompt_tokens: int) -> None:
        """Remember the slot's p."""
        assert isinstance(params, TopPParams)
        self._ps[slot] = params.top_p

    def needed(self, slots: Slots) -> bool:
        """Whether any row has a p below 1."""
        return bool((self._ps[slots] < 1).any())

    def apply(self, xp: ArrayNamespace, logits: Array, slots: Slots) -> Array:
        """Set everything below the row's threshold to -inf."""
        ps, vocab = self._ps[slots], logits.shape[-1]
        thresholds = xp.asarray(np.full((len(ps), 1), -np.inf, np.float32))
        rows = np.flatnonzero(ps < 1)
        for width in (*(width for width in _NUM_TRIED if width < vocab), vocab):
            part = logits if len(rows) == len(ps) else xp.take_rows(logits, rows)
            found, is_found = _threshold(xp, part, ps[rows], width)
            thresholds = xp.put_rows(thresholds, rows, found)
            rows = rows[~is_found]
            if len(rows) == 0:
                break

        return xp.where(logits < thresholds, -np.inf, logits)


def _threshold(
    xp: ArrayNamespace, logits: Array, ps: npt.NDArray[np.float32], width: int
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """[rows, 1]: the smallest logit to keep, looked for among the `width` most likely; and whether those hold p.

    They are the first ones, in descending order, whose probabilities sum up to p; the last of them is answered.
    """
    values, indices = xp.topk(logits, width)
    cumulative = xp.cumsum(xp.take_along(xp.softmax(logits), indices))
    is_short = cumulative < xp.asarray(ps[:, None])
    is_enough = xp.to_host(~is_short[:, -1:] | (values[:, -1:] == -np.inf))[:, 0]
    last = xp.to_host(xp.sum(xp.where(is_short[:, :-1], 1.0, 0.0))).astype(np.int64)
    return xp.take_along(values, xp.asarray(last)), is_enough
