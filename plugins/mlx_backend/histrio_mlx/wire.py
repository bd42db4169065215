"""Hidden states on their way between stages: MLX array ⇄ `histrio.messages.Tensor`, without a copy on the way out."""

from __future__ import annotations

import math
from typing import Any, cast

import mlx.core as mx
import numpy as np

from histrio.errors import BackendError
from histrio.messages import Tensor

__all__ = ["from_wire", "to_wire"]

_DTYPES = {
    "float32": mx.float32,
    "float16": mx.float16,
    "bfloat16": mx.bfloat16,
    "int32": mx.int32,
    "int64": mx.int64,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def to_wire(array: mx.array, name: str = "") -> Tensor:
    """[tokens, …] → raw bytes, which share the array's memory and outlive it. Waits for the device."""
    if array.dtype not in _NAMES:
        raise BackendError(f"a hidden state of dtype {array.dtype} can't be sent; use one of {', '.join(_DTYPES)}")

    array = mx.contiguous(array)
    mx.eval(array)
    return Tensor(_NAMES[array.dtype], tuple(array.shape), memoryview(cast(Any, array)).cast("B"), name)


def from_wire(tensor: Tensor, dtype: mx.Dtype | None = None) -> mx.array:
    """Raw bytes → an array of their shape, floats as `dtype` where one is given. One copy."""
    if tensor.dtype not in _DTYPES:
        raise BackendError(f"hidden states of dtype {tensor.dtype} can't be received; use one of {', '.join(_DTYPES)}")

    sent = _DTYPES[tensor.dtype]
    data = memoryview(tensor.data).cast("B")
    if len(data) != math.prod(tensor.shape) * sent.size:
        raise BackendError(f"a hidden state {tensor!r} came with {len(data)} bytes")

    received = mx.array(np.frombuffer(data, np.uint8)).view(sent).reshape(tensor.shape)
    return received.astype(dtype) if dtype is not None and mx.issubdtype(sent, mx.floating) else received
