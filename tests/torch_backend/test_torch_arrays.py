"""Every function of the array namespace gives on torch what numpy gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from histrio.contracts.backend import ArrayNamespace
from histrio_torch.arrays import TorchArrays

VALUES = np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32)


@pytest.fixture
def xp() -> ArrayNamespace:
    """Typed as the protocol, so that mypy compares the two."""
    return TorchArrays()


def test_a_round_trip_keeps_values_and_dtype(xp: ArrayNamespace) -> None:
    for dtype in (np.float32, np.int64, np.int32, np.bool_):
        values = VALUES.astype(dtype)
        result = xp.to_host(xp.asarray(values))
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, values)


def test_the_array_is_a_copy(xp: ArrayNamespace) -> None:
    values = VALUES.copy()
    array = xp.asarray(values)
    values[:] = 0
    np.testing.assert_array_equal(xp.to_host(array), VALUES)


def test_bfloat16_reaches_the_host_as_float32(xp: ArrayNamespace) -> None:
    array = torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16)
    assert xp.to_host(array).dtype == np.float32
    np.testing.assert_array_equal(xp.to_host(xp.float32(array)), [[1.5, -2.0]])


def test_rows_are_taken_and_put(xp: ArrayNamespace) -> None:
    rows = np.array([3, 1])
    array = xp.asarray(VALUES)
    taken = xp.take_rows(array, rows)
    np.testing.assert_array_equal(xp.to_host(taken), VALUES[rows])
    expected = VALUES.copy()
    expected[rows] = 7
    np.testing.assert_array_equal(xp.to_host(xp.put_rows(array, rows, taken * 0 + 7)), expected)


def test_argmax_takes_the_first_of_equals(xp: ArrayNamespace) -> None:
    values = np.zeros((3, 50_000), np.float32)
    values[0, [17, 400, 40_000]] = 2
    values[1, [49_999, 5]] = 1
    assert xp.to_host(xp.argmax(xp.asarray(values))).tolist() == [17, 5, 0]


def test_topk_descends(xp: ArrayNamespace) -> None:
    values, indices = (xp.to_host(array) for array in xp.topk(xp.asarray(VALUES), 6))
    expected = np.argsort(-VALUES, axis=-1)[:, :6]
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(VALUES, expected, -1))


def test_topk_beyond_the_width_gives_all(xp: ArrayNamespace) -> None:
    assert xp.to_host(xp.topk(xp.asarray(VALUES), 99)[0]).shape == VALUES.shape


def test_sorted_values_descend(xp: ArrayNamespace) -> None:
    values = np.round(VALUES)
    values[0, ::3] = -np.inf
    got = xp.to_host(xp.sorted_values(xp.asarray(values)))
    np.testing.assert_array_equal(got, -np.sort(-values, axis=-1))
    assert not np.array_equal(got, values)


def test_sorting_leaves_the_array_as_it_is(xp: ArrayNamespace) -> None:
    array = xp.asarray(VALUES)
    xp.sorted_values(array)
    np.testing.assert_array_equal(xp.to_host(array), VALUES)


def test_log_softmax_keeps_what_was_removed(xp: ArrayNamespace) -> None:
    values = VALUES.copy()
    values[:, 3] = -np.inf
    weights = np.exp(values.astype(np.float64))
    got = xp.to_host(xp.log_softmax(xp.asarray(values)))
    np.testing.assert_allclose(np.exp(got), weights / weights.sum(-1, keepdims=True), rtol=1e-5)
    assert (got[:, 3] == -np.inf).all()


def test_max_is_kept_as_a_column(xp: ArrayNamespace) -> None:
    np.testing.assert_array_equal(xp.to_host(xp.max(xp.asarray(VALUES))), VALUES.max(-1, keepdims=True))


@pytest.mark.parametrize("width", [1, 7, 8, 40, 64])
def test_block_sums_add_up_neighbours(xp: ArrayNamespace, width: int) -> None:
    got = xp.to_host(xp.block_sums(xp.asarray(VALUES), width))
    expected = [[row[start : start + width].sum() for start in range(0, 40, width)] for row in VALUES]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_put_along_writes_within_rows(xp: ArrayNamespace) -> None:
    indices = np.array([[0, 5, 5], [39, 1, 2], [7, 7, 7], [0, 1, 2], [4, 3, 2]])
    values = np.array([[1, 2, 2], [3, 4, 5], [6, 6, 6], [-np.inf, 0, 1], [7, 8, 9]], np.float32)
    got = xp.to_host(xp.put_along(xp.asarray(VALUES), xp.asarray(indices), xp.asarray(values)))
    expected = VALUES.copy()
    np.put_along_axis(expected, indices, values, -1)
    np.testing.assert_array_equal(got, expected)
    assert not np.array_equal(got, VALUES)


def test_a_condition_sums_to_how_often_it_holds(xp: ArrayNamespace) -> None:
    got = xp.to_host(xp.sum(xp.asarray(VALUES) > 0))
    np.testing.assert_array_equal(got, (VALUES > 0).sum(-1, keepdims=True))


def test_softmax_sum_and_cumsum_agree(xp: ArrayNamespace) -> None:
    weights = np.exp(VALUES.astype(np.float64))
    weights /= weights.sum(-1, keepdims=True)
    array = xp.softmax(xp.asarray(VALUES))
    np.testing.assert_allclose(xp.to_host(array), weights, rtol=1e-5)
    np.testing.assert_allclose(xp.to_host(xp.sum(array)), np.ones((5, 1)), rtol=1e-5)
    np.testing.assert_allclose(xp.to_host(xp.cumsum(array)), weights.cumsum(-1), rtol=1e-5)


def test_where_takes_arrays_and_numbers(xp: ArrayNamespace) -> None:
    array = xp.asarray(VALUES)
    got = xp.to_host(xp.where(array > 0, array, -np.inf))
    np.testing.assert_array_equal(got, np.where(VALUES > 0, VALUES, -np.inf))
    assert got.dtype == np.float32


def test_take_along_reads_within_rows(xp: ArrayNamespace) -> None:
    indices = np.random.default_rng(1).integers(0, 40, (5, 7)).astype(np.int32)
    got = xp.to_host(xp.take_along(xp.asarray(VALUES), xp.asarray(indices)))
    np.testing.assert_array_equal(got, np.take_along_axis(VALUES, indices.astype(np.int64), -1))


def test_arange_counts(xp: ArrayNamespace) -> None:
    assert xp.to_host(xp.arange(4)).tolist() == [0, 1, 2, 3]
