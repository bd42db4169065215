"""The array functions a backend offers to samplers, each beside what it means on numpy.

They stand apart from their test, as backends whose stages have processes of their own compute them there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import Array, ArrayNamespace

__all__ = ["ARRAY_LAWS", "Values", "computed"]

Values = npt.NDArray[Any]

_ROWS = np.array([2, 0])
_INDICES = np.array([[0, 36, 5], [7, 7, 7], [1, 2, 3]])
_NEW = np.array([[0.5, 1.5, 2.5], [4.0, 4.0, 4.0], [7.0, 8.0, 9.0]], np.float32)

ARRAY_LAWS: dict[str, tuple[Callable[[ArrayNamespace, Array], Array], Callable[[Values], Values]]] = {
    "argmax": (lambda xp, x: xp.argmax(x), lambda x: x.argmax(-1)),
    "arange": (lambda xp, x: xp.arange(7), lambda x: np.arange(7)),
    "block_sums": (lambda xp, x: xp.block_sums(xp.softmax(x), 8), lambda x: _blocks(_softmax(x), 8)),
    "cumsum": (lambda xp, x: xp.cumsum(xp.softmax(x)), lambda x: _softmax(x).cumsum(-1)),
    "float32": (lambda xp, x: xp.float32(xp.arange(5)), lambda x: np.arange(5, dtype=np.float32)),
    "log_softmax": (lambda xp, x: xp.log_softmax(x), lambda x: np.log(_softmax(x))),
    "max": (lambda xp, x: xp.max(x), lambda x: x.max(-1, keepdims=True)),
    "put_along": (lambda xp, x: xp.put_along(x, xp.asarray(_INDICES), xp.asarray(_NEW)), lambda x: _put_along(x)),
    "put_rows": (lambda xp, x: xp.put_rows(x, _ROWS, xp.take_rows(x, _ROWS[::-1].copy())), lambda x: x[[2, 1, 0]]),
    "softmax": (lambda xp, x: xp.softmax(x), lambda x: _softmax(x)),
    "sorted_values": (lambda xp, x: xp.sorted_values(x), lambda x: np.sort(x)[:, ::-1]),
    "sum": (lambda xp, x: xp.sum(xp.softmax(x)), lambda x: np.ones((len(x), 1))),
    "sum of a condition": (lambda xp, x: xp.sum(x > 0), lambda x: (x > 0).sum(-1, keepdims=True)),
    "take_along": (lambda xp, x: xp.take_along(x, xp.asarray(_INDICES)), lambda x: np.take_along_axis(x, _INDICES, -1)),
    "take_rows": (lambda xp, x: xp.take_rows(x, _ROWS), lambda x: x[_ROWS]),
    "topk indices": (lambda xp, x: xp.topk(x, 4)[1], lambda x: np.argsort(-x, kind="stable")[:, :4]),
    "topk values": (lambda xp, x: xp.topk(x, 4)[0], lambda x: np.sort(x)[:, :-5:-1]),
    "where": (lambda xp, x: xp.where(x > 0, x, -1.0), lambda x: np.where(x > 0, x, -1.0)),
}
"""Name → the function on the backend's arrays, and plainly."""


def computed(xp: ArrayNamespace, name: str, values: Values) -> Values:
    """What the function of this name gives on the backend's arrays."""
    function, _ = ARRAY_LAWS[name]
    return xp.to_host(function(xp, xp.asarray(values)))


def _softmax(values: Values) -> Values:
    weights = np.exp(values.astype(np.float64) - values.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True))


def _blocks(values: Values, width: int) -> Values:
    spans = range(0, values.shape[-1], width)
    return np.stack([values[:, begin : begin + width].sum(-1) for begin in spans], axis=-1)


def _put_along(values: Values) -> Values:
    np.put_along_axis(values, _INDICES, _NEW, -1)
    return values
