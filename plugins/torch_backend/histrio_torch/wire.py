"""Hidden states on their way between stages: torch tensor ⇄ `histrio.messages.Tensor`, without a copy on a CPU."""

from __future__ import annotations

import torch

from histrio.errors import BackendError
from histrio.messages import Tensor

__all__ = ["from_wire", "to_wire"]

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def to_wire(hidden: torch.Tensor) -> Tensor:
    """[tokens, hidden] on any device → raw bytes in host memory; shares the memory of a contiguous CPU tensor."""
    host = hidden.detach().cpu().contiguous()
    # numpy has no bfloat16, and the wire wants bytes anyway
    return Tensor(_NAMES[host.dtype], tuple(host.shape), host.view(torch.uint8).numpy())


def from_wire(tensor: Tensor, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Raw bytes → [tokens, hidden] of `dtype` on `device`. Copies read-only buffers, which torch can't hold."""
    if tensor.dtype not in _DTYPES:
        raise BackendError(f"hidden states of dtype {tensor.dtype} can't be received; the stages' dtypes must agree")

    data = memoryview(tensor.data)
    buffer = bytearray(data) if data.readonly else data
    received = torch.frombuffer(buffer, dtype=_DTYPES[tensor.dtype]).view(tensor.shape)
    return received.to(device=device, dtype=dtype)
