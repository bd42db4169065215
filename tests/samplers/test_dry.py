"""DRY against a naive rewrite of its definition, which compares every position of the sequence with its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histrio.contracts.backend import ArrayNamespace
from histrio.contracts.sampler import LogitsRows, Opening
from histrio.stage.sampling.numpy_arrays import NumpyArrays
from histrio_samplers.dry import Dry, DryParams

VOCAB = 12
LOGITS = np.random.default_rng(3).standard_normal((1, VOCAB)).astype(np.float32)

Shape = Callable[..., npt.NDArray[np.float32]]


def _naive(ids: Sequence[int], params: DryParams) -> dict[int, float]:
    """Token → penalty: for each position, how many tokens before it equal the end of the text."""
    if params.dry_penalty_last_n >= 0:
        ids = ids[len(ids) - min(params.dry_penalty_last_n, len(ids)) :]
    lengths: dict[int, int] = {}
    for position in range(1, len(ids)):
        length = 0
        while length < position and ids[position - 1 - length] == ids[len(ids) - 1 - length]:
            if ids[position - 1 - length] in params.dry_sequence_breaker_ids:
                break
            length += 1
        token = ids[position]
        if length >= params.dry_allowed_length and token not in params.dry_sequence_breaker_ids:
            lengths[token] = max(lengths.get(token, 0), length)
    return {
        token: params.dry_multiplier * params.dry_base ** (length - params.dry_allowed_length)
        for token, length in lengths.items()
    }


def _rows(length: int, drafts: Sequence[int] = ()) -> LogitsRows:
    seeds, choices = np.zeros(1, np.uint64), np.zeros(1, np.uint32)
    return LogitsRows(np.zeros(1, np.intp), np.array([length]), seeds, choices, [drafts] if drafts else ())


def _penalties(dry: Dry, length: int, drafts: Sequence[int] = ()) -> dict[int, float]:
    shaped = dry.apply(NumpyArrays(), np.zeros((1, VOCAB), np.float32), _rows(length, drafts))[0]
    return {token: -float(shaped[token]) for token in np.flatnonzero(shaped).tolist()}


@settings(max_examples=400, deadline=None)
@given(
    prompt=st.lists(st.integers(0, 3), max_size=40),
    output=st.lists(st.integers(0, 3), max_size=25),
    num_drafts=st.integers(0, 4),
    allowed=st.integers(1, 4),
    last_n=st.sampled_from([-1, 1, 5, 17, 1000]),
    breakers=st.lists(st.integers(0, 3), max_size=2),
)
def test_penalties_equal_the_naive_ones_at_every_step(
    prompt: list[int], output: list[int], num_drafts: int, allowed: int, last_n: int, breakers: list[int]
) -> None:
    params = DryParams(0.8, 1.75, allowed, last_n, breakers)
    dry = Dry(max_slots=1)
    assert dry.open(0, params, Opening(prompt, len(prompt)))

    for step in range(len(output) + 1):
        known, drafts = [*prompt, *output[:step]], output[step : step + num_drafts]
        for count in (0, len(drafts)):
            expected = _naive([*known, *drafts[:count]], params)
            assert _penalties(dry, len(known), drafts[:count]) == pytest.approx(expected, rel=1e-5)
        if step < len(output):
            dry.observe(np.zeros(1, np.intp), np.array([output[step]]), np.ones(1, np.float32))


def test_the_naive_rewrite_can_fail() -> None:
    ids, params = [1, 2, 3, 1, 2], DryParams(0.8)
    dry = Dry(max_slots=1)
    dry.open(0, params, Opening(ids, len(ids)))

    assert _penalties(dry, 5) == pytest.approx({3: 0.8})
    assert _penalties(dry, 5) != pytest.approx(_naive([1, 2, 3, 1, 3], params))


def test_a_longer_repetition_costs_more_on_every_kind_of_array(xp: ArrayNamespace, shape: Shape) -> None:
    ids = [[1, 2, 3, 4, 1, 2, 3], [9, 2, 3, 4, 1, 2, 3], [1, 2, 3, 4, 1, 2, 3], [4] * 3000]
    fields: list[dict[str, Any]] = [{"dry_multiplier": 2.0}, {"dry_multiplier": 2.0}, {}, {"dry_multiplier": 1.0}]
    logits = np.repeat(LOGITS, 4, axis=0)

    shaped = shape(xp, [Dry], logits, fields, ids=ids)

    changes = logits - shaped
    assert changes[0, 4] == pytest.approx(2 * 1.75, rel=1e-5)
    assert changes[1, 4] == pytest.approx(2, rel=1e-5)
    assert np.count_nonzero(changes[:2]) == 2
    assert np.array_equal(shaped[2], logits[2])
    assert np.isfinite(shaped).all()
    assert changes[3, 4] > 1e30
