"""The array functions of samplers on torch, on any of its devices."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["TorchArrays"]


class TorchArrays:
    """`histrio.contracts.backend.ArrayNamespace` for tensors on one device."""

    name = "torch"

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        # 8 MB of float32 stay in a CPU's cache and reuse memory; more are block faults.
        self.chunk_values = 2**21 if self.device.type == "cpu" else 2**25

    def asarray(self, values: npt.NDArray[Any]) -> Tensor:
        """Host array → device array of the same dtype; float64 becomes float32 on MPS, which has none."""
        if self.device.type == "mps" and values.dtype == np.float64:
            values = values.astype(np.float32)
        return torch.tensor(values, device=self.device)

    def to_host(self, array: Tensor) -> npt.NDArray[Any]:
        """Device array → numpy; waits for the device. Half precisions, which numpy lacks, become float32."""
        if array.dtype == torch.bfloat16:
            array = array.float()
        return array.detach().cpu().numpy()

    def float32(self, array: Tensor) -> Tensor:
        """Convert to float32 (no copy if it is)."""
        return array.to(torch.float32)

    def take_rows(self, array: Tensor, rows: npt.NDArray[np.intp]) -> Tensor:
        """The rows given by host indices."""
        return array.index_select(0, self._indices(rows))

    def put_rows(self, array: Tensor, rows: npt.NDArray[np.intp], values: Tensor) -> Tensor:
        """`array` with these rows replaced, in place."""
        return array.index_copy_(0, self._indices(rows), values)

    def argmax(self, array: Tensor) -> Tensor:
        """Index of the largest value of each row, the first one of equals."""
        # torch promises no order among equals; comparing with the maximum does, on every device.
        if self.device.type == "cpu":
            return array.argmax(dim=-1)

        is_largest = array == array.amax(dim=-1, keepdim=True)
        columns = torch.arange(array.shape[-1], device=array.device)
        return torch.where(is_largest, columns, array.shape[-1] - 1).amin(dim=-1)

    def topk(self, array: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k largest values of each row in descending order, and their indices."""
        values, indices = torch.topk(array, min(k, array.shape[-1]), dim=-1)
        return values, indices

    def sorted_values(self, array: Tensor) -> Tensor:
        """All values of each row in descending order."""
        if self.device.type != "cpu":
            return torch.sort(array, dim=-1, descending=True).values

        # numpy sorts values with vector instructions: a fifteenth of the time.
        values = array.neg().numpy()
        values.sort(axis=-1)
        return torch.from_numpy(values).neg_()

    def softmax(self, array: Tensor) -> Tensor:
        """Over the last axis."""
        return torch.softmax(array, dim=-1)

    def log_softmax(self, array: Tensor) -> Tensor:
        """Over the last axis; -inf stays."""
        return torch.log_softmax(array, dim=-1)

    def cumsum(self, array: Tensor) -> Tensor:
        """Over the last axis."""
        return torch.cumsum(array, dim=-1)

    def where(self, condition: Tensor, yes: Tensor | float, no: Tensor | float) -> Tensor:
        """Elementwise choice."""
        return torch.where(condition, yes, no)

    def take_along(self, array: Tensor, indices: Tensor) -> Tensor:
        """`array[r, indices[r, j]]`."""
        return torch.take_along_dim(array, indices.to(torch.int64), dim=-1)

    def put_along(self, array: Tensor, indices: Tensor, values: Tensor) -> Tensor:
        """`array` with `array[r, indices[r, j]] = values[r, j]`, in place."""
        return array.scatter_(-1, indices.to(torch.int64), values)

    def max(self, array: Tensor) -> Tensor:
        """Largest of each row, kept as size 1."""
        return array.amax(dim=-1, keepdim=True)

    def sum(self, array: Tensor) -> Tensor:
        """Over the last axis, kept as size 1."""
        return array.sum(dim=-1, keepdim=True)

    def block_sums(self, array: Tensor, width: int) -> Tensor:
        """Sums of `width` columns after the other; the last block may be narrower."""
        rest = -array.shape[-1] % width
        padded = torch.nn.functional.pad(array, (0, rest)) if rest else array
        return padded.reshape(len(array), -1, width).sum(dim=-1)

    def arange(self, length: int) -> Tensor:
        """Indices 0 … length-1 as integers."""
        return torch.arange(length, device=self.device)

    def _indices(self, rows: npt.NDArray[np.intp]) -> Tensor:
        return torch.as_tensor(np.asarray(rows, dtype=np.int64), device=self.device)
