"""The largest values of long rows are found in columns, and are those that sorting finds."""

from __future__ import annotations

import numpy as np
import pytest

from histrio.stage.sampling.numpy_arrays import NumpyArrays


@pytest.mark.parametrize(("width", "k"), [(160, 7), (160, 160), (4_000, 31), (4_001, 32), (32_005, 64), (151_936, 1)])
def test_topk_is_the_begin_of_the_sorted_row(width: int, k: int) -> None:
    rows = np.random.default_rng(width).standard_normal((3, width), dtype=np.float32)
    values, indices = NumpyArrays().topk(rows, k)

    assert np.array_equal(values, -np.sort(-rows, axis=-1)[:, :k])
    assert np.array_equal(np.take_along_axis(rows, indices, axis=-1), values)
    assert not np.array_equal(values[0], values[1]), "control: all rows are alike"


def test_topk_of_removed_tokens_names_each_index_once() -> None:
    rows = np.full((2, 20_000), -np.inf, np.float32)
    rows[:, [3, 19_999]] = 2, 1
    values, indices = NumpyArrays().topk(rows, 20)

    assert indices[0, :2].tolist() == [3, 19_999]
    assert np.isneginf(values[:, 2:]).all()
    assert [len(set(row)) for row in indices.tolist()] == [20, 20]
