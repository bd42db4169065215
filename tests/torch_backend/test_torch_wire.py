"""Hidden states survive the wire, without a copy where none is needed."""

from __future__ import annotations

import pytest
import torch

from histrio.errors import BackendError
from histrio.messages import Tensor
from histrio_torch.wire import from_wire, to_wire

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_round_trip_is_exact(dtype: torch.dtype) -> None:
    hidden = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    wire = to_wire(hidden)

    assert wire.shape == (3, 5)
    assert len(memoryview(wire.data).cast("B")) == 15 * dtype.itemsize
    assert torch.equal(from_wire(wire, dtype, CPU), hidden)
    assert not torch.equal(from_wire(to_wire(hidden + 1), dtype, CPU), hidden)


def test_neither_way_copies() -> None:
    hidden = torch.zeros(2, 4)
    received = from_wire(to_wire(hidden), torch.float32, CPU)
    hidden[1, 2] = 7.0

    assert received[1, 2] == 7.0


def test_read_only_buffers_are_taken() -> None:
    received = from_wire(Tensor("float32", (1, 2), bytes(8)), torch.float32, CPU)
    assert received.tolist() == [[0.0, 0.0]]


def test_the_receivers_dtype_wins() -> None:
    received = from_wire(to_wire(torch.ones(1, 2, dtype=torch.bfloat16)), torch.float32, CPU)
    assert received.dtype is torch.float32


def test_integers_are_no_hidden_state() -> None:
    with pytest.raises(BackendError, match="int32"):
        from_wire(Tensor("int32", (1, 1), bytearray(4)), torch.float32, CPU)
