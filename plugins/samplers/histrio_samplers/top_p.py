"""Top-p: the smallest set of most likely tokens that holds probability p stays.

Holtzman et al. 2019, "The Curious Case of Neural Text Degeneration". The set nearly always lies within the most likely
1024 tokens, and finding those is some twenty times cheaper than sorting a vocabulary: only rows where they do not hold
p are sorted.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from histrio.backend import Array, ArrayNamespace
from histrio.sampling import Slots

__all__ = ["TopP", "TopPParams"]

_NUM_TRIED = 1024


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
        ps = self._ps[slots]
        thresholds = xp.asarray(np.full((len(ps), 1), -np.inf, np.float32))
        rows = np.flatnonzero(ps < 1)
        part = logits if len(rows) == len(ps) else xp.take_rows(logits, rows)
        found, is_found = _threshold_of_top(xp, part, ps[rows])
        thresholds = xp.put_rows(thresholds, rows, found)
        if not is_found.all():
            hard = rows[~is_found]
            thresholds = xp.put_rows(thresholds, hard, _threshold(xp, xp.take_rows(logits, hard), ps[hard]))

        return xp.where(logits < thresholds, -np.inf, logits)


def _threshold_of_top(
    xp: ArrayNamespace, logits: Array, ps: npt.NDArray[np.float32]
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """[rows, 1]: the smallest logit to keep, looked for among the most likely; and for which rows that was enough."""
    width = min(_NUM_TRIED, logits.shape[-1])
    values, indices = xp.topk(logits, width)
    cumulative = xp.cumsum(xp.take_along(xp.softmax(logits), indices))
    is_enough = (cumulative[:, -1:] >= xp.asarray(ps[:, None])) | (values[:, -1:] == -np.inf)
    is_found = xp.to_host(is_enough)[:, 0] | (width == logits.shape[-1])
    return _last_needed(xp, values, cumulative, ps), is_found


def _threshold(xp: ArrayNamespace, logits: Array, ps: npt.NDArray[np.float32]) -> Array:
    """[rows, 1]: the smallest logit to keep, by sorting all of them."""
    values, _ = xp.sort_descending(logits)
    return _last_needed(xp, values, xp.cumsum(xp.softmax(values)), ps)


def _last_needed(xp: ArrayNamespace, values: Array, cumulative: Array, ps: npt.NDArray[np.float32]) -> Array:
    """[rows, 1]: of descending values, the first whose cumulative probability reaches p, or the last one."""
    is_short = cumulative < xp.asarray(ps[:, None])
    last = xp.sum(xp.where(is_short[:, :-1], 1.0, 0.0))
    return xp.take_along(values, xp.asarray(xp.to_host(last).astype(np.int64)))
