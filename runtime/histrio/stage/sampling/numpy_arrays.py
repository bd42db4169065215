"""The array namespace on numpy: what the toy backend samples with, and what other namespaces are compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["NumpyArrays"]

NumpyArray = npt.NDArray[Any]
_DEPTH = 32
"""Values of a column, when the largest of a long row are sought: the maxima are found at the speed of memory."""


class NumpyArrays:
    """`histrio.contracts.backend.ArrayNamespace` on numpy; each function treats every row by itself."""

    name = "numpy"
    chunk_values = 2**21

    def asarray(self, values: npt.NDArray[Any]) -> NumpyArray:
        """The host array itself."""
        return values

    def to_host(self, array: NumpyArray) -> npt.NDArray[Any]:
        """The array itself."""
        return array

    def float32(self, array: NumpyArray) -> NumpyArray:
        """Convert to float32 (no copy if it is)."""
        return array.astype(np.float32, copy=False)

    def take_rows(self, array: NumpyArray, rows: npt.NDArray[np.intp]) -> NumpyArray:
        """A copy of these rows."""
        return array[rows]

    def put_rows(self, array: NumpyArray, rows: npt.NDArray[np.intp], values: NumpyArray) -> NumpyArray:
        """`array` with these rows replaced, in place."""
        array[rows] = values
        return array

    def argmax(self, array: NumpyArray) -> NumpyArray:
        """Index of the largest value of each row, the first one of equals."""
        return np.asarray(np.argmax(array, axis=-1))

    def topk(self, array: NumpyArray, k: int) -> tuple[NumpyArray, NumpyArray]:
        """The k largest values of each row in descending order, and their indices."""
        sought = self._candidates(array, k) if k * _DEPTH * 4 < array.shape[-1] else self._every(array)
        values = np.take_along_axis(array, sought, axis=-1)
        if k < values.shape[-1]:
            # The smallest of the negated ones: numpy takes thirty times as long where most is equal and smaller.
            largest = np.argpartition(-values, k - 1, axis=-1)[..., :k]
            values, sought = np.take_along_axis(values, largest, axis=-1), np.take_along_axis(sought, largest, axis=-1)
        ranked = np.argsort(-values, axis=-1, kind="stable")
        return np.take_along_axis(values, ranked, axis=-1), np.take_along_axis(sought, ranked, axis=-1)

    def sorted_values(self, array: NumpyArray) -> NumpyArray:
        """All values of each row in descending order."""
        # Sorting values is some fifteen times faster than finding their order, and numpy does it ascending only.
        values = -array
        values.sort(axis=-1)
        return np.negative(values, out=values)

    def softmax(self, array: NumpyArray) -> NumpyArray:
        """Over the last axis; -inf becomes 0, a row of nothing else NaN."""
        with np.errstate(invalid="ignore"):
            weights = array - array.max(axis=-1, keepdims=True)
            np.exp(weights, out=weights)
            weights /= weights.sum(axis=-1, keepdims=True)
            return np.asarray(weights)

    def log_softmax(self, array: NumpyArray) -> NumpyArray:
        """Over the last axis; -inf stays, a row of nothing else becomes NaN."""
        with np.errstate(invalid="ignore"):
            shifted = array - array.max(axis=-1, keepdims=True)
            return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))

    def cumsum(self, array: NumpyArray) -> NumpyArray:
        """Over the last axis; accumulated in float64, since float32 drifts over a vocabulary."""
        return np.cumsum(array, axis=-1, dtype=np.float64).astype(array.dtype, copy=False)

    def where(self, condition: NumpyArray, yes: NumpyArray | float, no: NumpyArray | float) -> NumpyArray:
        """Elementwise choice; plain numbers become float32."""
        return np.where(condition, *(np.float32(v) if isinstance(v, float) else v for v in (yes, no)))

    def take_along(self, array: NumpyArray, indices: NumpyArray) -> NumpyArray:
        """`array[r, indices[r, j]]`."""
        return np.asarray(array[np.arange(len(array))[:, None], indices])

    def put_along(self, array: NumpyArray, indices: NumpyArray, values: NumpyArray) -> NumpyArray:
        """`array` with `array[r, indices[r, j]] = values[r, j]`, in place."""
        np.put_along_axis(array, indices, values, axis=-1)
        return array

    def max(self, array: NumpyArray) -> NumpyArray:
        """Largest of each row, kept as size 1."""
        return np.asarray(array.max(axis=-1, keepdims=True))

    def sum(self, array: NumpyArray) -> NumpyArray:
        """Over the last axis, kept as size 1; of a condition, how often it holds."""
        return np.asarray(array.sum(axis=-1, keepdims=True))

    def block_sums(self, array: NumpyArray, width: int) -> NumpyArray:
        """Sums of `width` columns after the other; the last block may be narrower."""
        return np.add.reduceat(array, np.arange(0, array.shape[-1], width), axis=-1)

    def arange(self, length: int) -> NumpyArray:
        """Indices 0 … length-1."""
        return np.arange(length)

    def _candidates(self, array: NumpyArray, k: int) -> NumpyArray:
        """Indices among which the k largest of each row are: of the k columns with the largest maxima, where a row
        lies in columns of `_DEPTH` values, and of the rest that fills no column."""
        width = array.shape[-1] // _DEPTH
        in_columns = array[:, : width * _DEPTH].reshape(len(array), _DEPTH, width)
        columns = np.argpartition(-in_columns.max(axis=1), k - 1, axis=-1)[:, :k]
        chosen = (columns[:, None, :] + np.arange(_DEPTH)[:, None] * width).reshape(len(array), -1)
        rest = np.broadcast_to(np.arange(width * _DEPTH, array.shape[-1]), (len(array), array.shape[-1] % _DEPTH))
        return np.concatenate([chosen, rest], axis=-1)

    def _every(self, array: NumpyArray) -> NumpyArray:
        """Indices of all values, for each row."""
        return np.broadcast_to(np.arange(array.shape[-1]), array.shape)
