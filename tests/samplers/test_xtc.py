"""XTC against a plain rewrite that sorts, with the random number of each position given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from histrio.contracts.backend import ArrayNamespace
from histrio.contracts.sampler import LogitsRows
from histrio.messages import Ask, Open
from histrio.stage.sampling.sampler_chain import SamplerChain
from histrio_samplers.xtc import Xtc

VOCAB = 50

Shape = Callable[..., npt.NDArray[np.float32]]


def _naive(logits: npt.NDArray[np.float32], threshold: float) -> list[int]:
    """Tokens that are removed: the most likely ones while the next one is good as well."""
    weights = np.exp(logits.astype(np.float64))
    weights /= weights.sum()
    good = [token for token in np.argsort(-weights).tolist() if weights[token] >= threshold]
    return sorted(good[:-1])


@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.1, 0.2, 0.6])
def test_all_good_tokens_but_the_least_likely_are_removed(xp: ArrayNamespace, shape: Shape, threshold: float) -> None:
    logits = (np.random.default_rng(1).standard_normal((30, VOCAB)) * 2).astype(np.float32)
    fields = [{"xtc_probability": 1.0, "xtc_threshold": threshold}] * 29 + [{}]

    shaped = shape(xp, [Xtc], logits, fields)

    removed = [np.flatnonzero(~np.isfinite(row)).tolist() for row in shaped]
    assert removed == [*(_naive(row, threshold) for row in logits[:29]), []]
    assert np.array_equal(shaped[np.isfinite(shaped)], logits[np.isfinite(shaped)])
    assert (sum(len(tokens) for tokens in removed) > 0) == (threshold < 0.5)


def test_tokens_removed_before_are_neither_good_nor_needed(xp: ArrayNamespace, shape: Shape) -> None:
    logits = np.full((2, 8), -np.inf, np.float32)
    logits[0, [1, 4]] = [1.0, 1.5]
    logits[1, 3] = 2.0

    shaped = shape(xp, [Xtc], logits, [{"xtc_probability": 1.0}] * 2)

    assert np.flatnonzero(np.isfinite(shaped[0])).tolist() == [1]
    assert np.flatnonzero(np.isfinite(shaped[1])).tolist() == [3]


def test_it_happens_as_often_as_asked_and_always_at_the_same_positions(xp: ArrayNamespace) -> None:
    row = np.zeros(4, np.float32)
    row[2] = 1.0
    slots, positions = np.zeros(4000, np.intp), np.arange(4000)
    logits = np.repeat(row[None], 4000, axis=0)
    rows = LogitsRows(slots, positions, np.full(4000, 9, np.uint64), np.zeros(4000, np.uint32))
    fields: dict[str, Any] = {"xtc_probability": 0.25, "xtc_threshold": 0.1}
    streams = []
    for seed in (9, 9, 10):
        chain = SamplerChain([Xtc], max_slots=1)
        chain.open(Open(0, [], 0, Ask(fields, seed=seed), seed))
        streams.append(np.array(chain.sample(xp, xp.asarray(logits), slots, positions).ids))

    is_turn = rows.uniform("xtc") < 0.25
    assert not (streams[0][is_turn] == 2).any()
    assert (streams[0][~is_turn] == 2).mean() > 0.4
    assert abs(is_turn.mean() - 0.25) < 0.04
    assert np.array_equal(streams[0], streams[1])
    assert not np.array_equal(streams[0], streams[2])


def test_its_numbers_are_not_those_of_the_draw() -> None:
    rows = LogitsRows(np.zeros(500, np.intp), np.arange(500), np.ones(500, np.uint64), np.zeros(500, np.uint32))

    own, others = rows.uniform("xtc"), rows.uniform("another sampler")

    assert abs(np.corrcoef(own, others)[0, 1]) < 0.2
    assert np.array_equal(own, rows.uniform("xtc"))
