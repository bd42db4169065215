"""The two-step inverse CDF against a plain running sum in float64."""

from __future__ import annotations

import numpy as np
import pytest

from histrio.contracts.backend import ArrayNamespace
from histrio.stage.sampling.inverse_cdf import draw, first_reaching

SHARES = np.array([1e-7, 0.1, 0.5, 0.77, 0.999999, 1.0], np.float32)


@pytest.mark.parametrize("width", [1, 100, 2048, 2049, 5000, 12_800])
def test_it_finds_where_the_running_sum_reaches_the_share(xp: ArrayNamespace, width: int) -> None:
    rng = np.random.default_rng(width)
    weights = rng.random((len(SHARES), width)).astype(np.float32) ** 8
    weights[rng.random(weights.shape) < 0.5] = 0
    weights[:, width // 2] = 0.1

    found, totals = first_reaching(xp, xp.asarray(weights), SHARES)

    ends = weights.cumsum(axis=1, dtype=np.float64)
    every = np.arange(len(SHARES))
    np.testing.assert_allclose(totals, ends[:, -1], rtol=1e-5)
    assert (weights[every, found] > 0).all()
    assert (ends[every, found] >= SHARES * ends[:, -1] * (1 - 1e-5)).all()
    assert (ends[every, found] - weights[every, found] <= SHARES * ends[:, -1] * (1 + 1e-5)).all()
    assert len(set(found.tolist())) > 1 or width == 1


@pytest.mark.parametrize("width", [2048, 4096])
@pytest.mark.parametrize("column", [0, 127, 128, 2047])
def test_a_single_token_is_always_drawn(xp: ArrayNamespace, width: int, column: int) -> None:
    logits = np.full((3, width), -np.inf, np.float32)
    logits[:, column] = [-1e4, 0, 1e4]
    uniforms = np.array([2.0**-24, 0.5, 1 - 2.0**-24], np.float32)

    ids, probabilities = draw(xp, xp.asarray(logits), uniforms)

    assert ids.tolist() == [column] * 3
    assert probabilities.tolist() == [1.0] * 3


@pytest.mark.parametrize("width", [300, 6000])
def test_each_token_is_drawn_as_often_as_its_probability_says(xp: ArrayNamespace, width: int) -> None:
    logits = np.full(width, -30.0, np.float32)
    logits[[3, width // 2, width - 1]] = np.log([0.2, 0.3, 0.5])
    uniforms = ((np.arange(2000) + 0.5) / 2000).astype(np.float32)

    ids, probabilities = draw(xp, xp.asarray(np.repeat(logits[None], 2000, axis=0)), uniforms)

    counts = {token: ids.tolist().count(token) for token in (3, width // 2, width - 1)}
    assert list(counts.values()) == pytest.approx([400, 600, 1000], abs=1)
    assert probabilities[ids == 3] == pytest.approx(0.2, rel=1e-4)


@pytest.mark.parametrize("width", [40, 2048, 3000])
def test_zeros_at_the_end_of_every_row_change_nothing(xp: ArrayNamespace, width: int) -> None:
    weights = np.random.default_rng(width).random((len(SHARES), width)).astype(np.float32)
    padded = np.pad(weights, ((0, 0), (0, 6000)))
    with_more = padded.copy()
    with_more[2, -1] = weights[2].sum() * 2

    narrow, wide, more = (first_reaching(xp, xp.asarray(each), SHARES) for each in (weights, padded, with_more))

    assert wide[0].tolist() == narrow[0].tolist()
    np.testing.assert_allclose(wide[1], narrow[1], rtol=1e-6)
    assert more[0].tolist() == [*narrow[0][:2], width + 5999, *narrow[0][3:]]


@pytest.mark.parametrize("width", [1, 300, 3000])
def test_rows_of_nothing_have_no_total(xp: ArrayNamespace, width: int) -> None:
    weights = np.zeros((3, width), np.float32)
    weights[1, 0] = 0.5

    assert first_reaching(xp, xp.asarray(weights), SHARES[:3])[1].tolist() == [0, 0.5, 0]
    assert first_reaching(xp, xp.asarray(weights[::2]), SHARES[:2])[1].tolist() == [0, 0]


@pytest.mark.parametrize("width", [300, 3000])
def test_rows_without_a_distribution_are_told_apart(xp: ArrayNamespace, width: int) -> None:
    logits = np.zeros((3, width), np.float32)
    logits[0], logits[2, 5] = -np.inf, np.nan

    with np.errstate(invalid="ignore"):
        ids, _ = draw(xp, xp.asarray(logits), np.full(3, 0.5, np.float32))

    assert ids.tolist() == [-1, ids[1], -1]
    assert ids[1] >= 0
