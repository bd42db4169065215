"""Hidden states on their way between stages: float32 as this backend gives them, 16 bits from other backends too."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from histrio.errors import BackendError
from histrio.messages import Tensor

__all__ = ["from_wire", "to_wire"]


def to_wire(hidden: npt.NDArray[np.float32]) -> Tensor:
    """[tokens, hidden] on the same memory."""
    return Tensor("float32", hidden.shape, hidden)


def from_wire(tensor: Tensor) -> npt.NDArray[np.float32]:
    """[tokens, hidden] in float32; without a copy where it is that already. Raises `BackendError`."""
    match tensor.dtype:
        case "float32":
            values = np.frombuffer(tensor.data, np.float32)
        case "float16":
            values = np.frombuffer(tensor.data, np.float16).astype(np.float32)
        case "bfloat16":
            values = (np.frombuffer(tensor.data, np.uint16).astype(np.uint32) << 16).view(np.float32)
        case _:
            raise BackendError(f"hidden states of dtype {tensor.dtype} can't be received; use 16 or 32 bits")
    return values.reshape(tensor.shape)
