"""Every function of the array namespace gives on MLX what numpy gives."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from histrio.contracts.backend import ArrayNamespace
from histrio_mlx.arrays import MlxArrays

VALUES = np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32)


@pytest.fixture
def xp() -> ArrayNamespace:
    """Typed as the protocol, so that mypy compares the two."""
    return MlxArrays()


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.int32, np.bool_])
def test_a_round_trip_keeps_values_and_dtype(xp: ArrayNamespace, dtype: Any) -> None:
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
    array = mx.array([[1.5, -2.0]], dtype=mx.bfloat16)
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


@pytest.mark.parametrize("count", [1, 6, 39])
def test_topk_descends(xp: ArrayNamespace, count: int) -> None:
    values, indices = (xp.to_host(array) for array in xp.topk(xp.asarray(VALUES), count))
    expected = np.argsort(-VALUES, axis=-1)[:, :count]
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(VALUES, expected, -1))


def test_topk_beyond_the_width_gives_all(xp: ArrayNamespace) -> None:
    assert xp.to_host(xp.topk(xp.asarray(VALUES), 99)[0]).shape == VALUES.shape


def test_values_are_sorted(xp: ArrayNamespace) -> None:
    values = np.where(VALUES > -1, VALUES, -np.inf).astype(np.float32)
    got = xp.to_host(xp.sorted_values(xp.asarray(values)))
    np.testing.assert_array_equal(got, -np.sort(-values, axis=-1))


def test_softmax_sum_and_cumsum_agree(xp: ArrayNamespace) -> None:
    weights = np.exp(VALUES.astype(np.float64))
    weights /= weights.sum(-1, keepdims=True)
    array = xp.softmax(xp.asarray(VALUES))
    np.testing.assert_allclose(xp.to_host(array), weights, rtol=1e-5)
    np.testing.assert_allclose(xp.to_host(xp.sum(array)), np.ones((5, 1)), rtol=1e-5)
    np.testing.assert_allclose(xp.to_host(xp.cumsum(array)), weights.cumsum(-1), rtol=1e-5)


def test_removed_tokens_stay_removed(xp: ArrayNamespace) -> None:
    values = np.where(VALUES > 0, VALUES, -np.inf).astype(np.float32)
    assert (xp.to_host(xp.softmax(xp.asarray(values)))[VALUES <= 0] == 0).all()
    logarithms = xp.to_host(xp.log_softmax(xp.asarray(values)))
    assert np.isneginf(logarithms[VALUES <= 0]).all()
    np.testing.assert_allclose(np.exp(logarithms.astype(np.float64)).sum(-1), np.ones(5), rtol=1e-5)


def test_where_takes_arrays_and_numbers(xp: ArrayNamespace) -> None:
    array = xp.asarray(VALUES)
    got = xp.to_host(xp.where(array > 0, array, -np.inf))
    np.testing.assert_array_equal(got, np.where(VALUES > 0, VALUES, -np.inf))
    assert got.dtype == np.float32


def test_take_along_reads_within_rows(xp: ArrayNamespace) -> None:
    indices = np.random.default_rng(1).integers(0, 40, (5, 7)).astype(np.int32)
    got = xp.to_host(xp.take_along(xp.asarray(VALUES), xp.asarray(indices)))
    np.testing.assert_array_equal(got, np.take_along_axis(VALUES, indices.astype(np.int64), -1))


def test_put_along_writes_within_rows(xp: ArrayNamespace) -> None:
    indices = np.argsort(VALUES, axis=-1)[:, :3].astype(np.int64)
    values = np.arange(15, dtype=np.float32).reshape(5, 3)
    expected = VALUES.copy()
    np.put_along_axis(expected, indices, values, -1)
    got = xp.put_along(xp.asarray(VALUES), xp.asarray(indices), xp.asarray(values))
    np.testing.assert_array_equal(xp.to_host(got), expected)


def test_max_and_counts_keep_an_axis(xp: ArrayNamespace) -> None:
    array = xp.asarray(VALUES)
    np.testing.assert_array_equal(xp.to_host(xp.max(array)), VALUES.max(-1, keepdims=True))
    np.testing.assert_array_equal(xp.to_host(xp.sum(array > 0)), (VALUES > 0).sum(-1, keepdims=True))


@pytest.mark.parametrize("width", [8, 7, 40, 64])
def test_block_sums_take_a_narrow_last_block(xp: ArrayNamespace, width: int) -> None:
    got = xp.to_host(xp.block_sums(xp.asarray(VALUES), width))
    np.testing.assert_allclose(got, np.add.reduceat(VALUES, range(0, 40, width), axis=-1), rtol=1e-4, atol=1e-5)


def test_arange_counts(xp: ArrayNamespace) -> None:
    assert xp.to_host(xp.arange(4)).tolist() == [0, 1, 2, 3]
