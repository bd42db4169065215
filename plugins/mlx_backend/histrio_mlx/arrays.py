"""The array functions of samplers on MLX."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

__all__ = ["MlxArrays"]


class MlxArrays:
    """`histrio.contracts.backend.ArrayNamespace` for MLX arrays on one device."""

    name = "mlx"
    chunk_values = 2**25

    def __init__(self, device: mx.Device | None = None) -> None:
        self.device = mx.Device(mx.cpu) if device is None else device

    def asarray(self, values: npt.NDArray[Any]) -> mx.array:
        """Host array → device array of the same dtype; float64, which no Metal device has, becomes float32."""
        if values.dtype == np.float64:
            values = values.astype(np.float32)
        return mx.array(values)

    def to_host(self, array: mx.array) -> npt.NDArray[Any]:
        """Device array → numpy; waits for the device. Half precisions, which numpy lacks, become float32."""
        if array.dtype == mx.bfloat16:
            array = array.astype(mx.float32)
        return np.array(array)

    def float32(self, array: mx.array) -> mx.array:
        """Convert to float32 (no copy if it is)."""
        return array.astype(mx.float32)

    def take_rows(self, array: mx.array, rows: npt.NDArray[np.intp]) -> mx.array:
        """The rows given by host indices."""
        return mx.take(array, _indices(rows), axis=0)

    def put_rows(self, array: mx.array, rows: npt.NDArray[np.intp], values: mx.array) -> mx.array:
        """`array` with these rows replaced, in place."""
        array[_indices(rows)] = values
        return array

    def argmax(self, array: mx.array) -> mx.array:
        """Index of the largest value of each row, the first one of equals."""
        # Which of equals `mx.argmax` gives is promised nowhere; the smallest index at the maximum is.
        width = array.shape[-1]
        is_largest = array == mx.max(array, axis=-1, keepdims=True)
        return mx.min(mx.where(is_largest, mx.arange(width), width - 1), axis=-1)

    def topk(self, array: mx.array, k: int) -> tuple[mx.array, mx.array]:
        """The k largest values of each row in descending order, and their indices."""
        indices = mx.argsort(-array, axis=-1) if k >= array.shape[-1] else self._largest(array, k)
        return mx.take_along_axis(array, indices, axis=-1), indices

    def sorted_values(self, array: mx.array) -> mx.array:
        """All values of each row in descending order."""
        if self.device == mx.Device(mx.gpu):
            return -mx.sort(-array, axis=-1)

        # numpy sorts values with vector instructions: a fourteenth of the time.
        values = np.array(-array)
        values.sort(axis=-1)
        return -mx.array(values)

    def softmax(self, array: mx.array) -> mx.array:
        """Over the last axis; -inf becomes 0."""
        return mx.softmax(array, axis=-1, precise=True)

    def log_softmax(self, array: mx.array) -> mx.array:
        """Over the last axis; -inf stays."""
        return array - mx.logsumexp(array, axis=-1, keepdims=True)

    def cumsum(self, array: mx.array) -> mx.array:
        """Over the last axis."""
        return mx.cumsum(array, axis=-1)

    def where(self, condition: mx.array, yes: mx.array | float, no: mx.array | float) -> mx.array:
        """Elementwise choice."""
        return mx.where(condition, yes, no)

    def take_along(self, array: mx.array, indices: mx.array) -> mx.array:
        """`array[r, indices[r, j]]`."""
        return mx.take_along_axis(array, indices, axis=-1)

    def put_along(self, array: mx.array, indices: mx.array, values: mx.array) -> mx.array:
        """`array` with `array[r, indices[r, j]] = values[r, j]`."""
        return mx.put_along_axis(array, indices, values, axis=-1)

    def max(self, array: mx.array) -> mx.array:
        """Largest of each row, kept as size 1."""
        return mx.max(array, axis=-1, keepdims=True)

    def sum(self, array: mx.array) -> mx.array:
        """Over the last axis, kept as size 1; of a condition, how often it holds."""
        return mx.sum(array, axis=-1, keepdims=True)

    def block_sums(self, array: mx.array, width: int) -> mx.array:
        """Sums of `width` columns after the other; the last block may be narrower."""
        rest = -array.shape[-1] % width
        padded = mx.pad(array, [(0, 0), (0, rest)]) if rest else array
        return mx.sum(padded.reshape(array.shape[0], -1, width), axis=-1)

    def arange(self, length: int) -> mx.array:
        """Indices 0 … length-1 as integers."""
        return mx.arange(length)

    def _largest(self, array: mx.array, k: int) -> mx.array:
        candidates = mx.argpartition(-array, kth=k - 1, axis=-1)[..., :k]
        ranked = mx.argsort(-mx.take_along_axis(array, candidates, axis=-1), axis=-1)
        return mx.take_along_axis(candidates, ranked, axis=-1)


def _indices(rows: npt.NDArray[np.intp]) -> mx.array:
    return mx.array(np.asarray(rows, np.int32))
