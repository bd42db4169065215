"""Hidden states survive the wire, without a copy on the way out."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from histrio.errors import BackendError
from histrio.messages import Tensor
from histrio_mlx.wire import from_wire, to_wire


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_a_round_trip_is_exact(dtype: mx.Dtype) -> None:
    hidden = mx.random.normal((3, 5), key=mx.random.key(0)).astype(dtype)
    tensor = to_wire(hidden)

    assert tensor.shape == (3, 5)
    assert len(memoryview(tensor.data)) == 15 * dtype.size
    assert bool((from_wire(tensor, dtype) == hidden).all())
    assert not bool((from_wire(to_wire(hidden + 1), dtype) == hidden).all())


def test_bytes_are_those_that_torch_sends() -> None:
    import torch

    from histrio_torch.wire import to_wire as torch_to_wire

    values = [[1.5, -2.25, 3.0]]
    theirs = torch_to_wire(torch.tensor(values, dtype=torch.bfloat16))
    ours = to_wire(mx.array(values, dtype=mx.bfloat16))
    assert (ours.dtype, ours.shape, bytes(ours.data)) == (theirs.dtype, theirs.shape, bytes(theirs.data))


def test_the_way_out_shares_memory_that_outlives_the_array() -> None:
    hidden = mx.zeros((512, 1024))
    mx.eval(hidden)
    before = mx.get_active_memory()
    data = np.frombuffer(to_wire(hidden).data, np.float32)
    assert mx.get_active_memory() == before
    del hidden
    assert mx.get_active_memory() == before, "the buffer is held"
    assert (data == 0).all()
    del data
    assert mx.get_active_memory() < before, "a control: and then it is not"


def test_a_transposed_array_is_sent_in_its_own_order() -> None:
    hidden = mx.arange(6).reshape(2, 3).astype(mx.float32).T
    assert np.frombuffer(to_wire(hidden).data, np.float32).tolist() == [0, 3, 1, 4, 2, 5]


def test_the_receivers_dtype_wins_for_floats_only() -> None:
    assert from_wire(to_wire(mx.ones((1, 2), mx.bfloat16)), mx.float32).dtype == mx.float32
    assert from_wire(to_wire(mx.ones((1, 2), mx.int32), "1"), mx.float32).dtype == mx.int32


def test_names_stay() -> None:
    assert to_wire(mx.ones((1, 2)), "1.0").name == "1.0"


@pytest.mark.parametrize(
    ("tensor", "words"),
    [(Tensor("complex64", (1,), bytes(8)), "complex64"), (Tensor("float32", (2, 3), bytes(20)), "20 bytes")],
)
def test_what_is_no_hidden_state_is_refused(tensor: Any, words: str) -> None:
    with pytest.raises(BackendError, match=words):
        from_wire(tensor)
