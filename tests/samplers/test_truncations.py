"""Temperature and all truncations against the logits processors of transformers, an implementation from elsewhere.

Where transformers has none (top-n-sigma), against the paper's formula on single rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from histrio.contracts.backend import ArrayNamespace
from histrio_samplers.min_p import MinP
from histrio_samplers.temperature import Temperature
from histrio_samplers.top_k import TopK
from histrio_samplers.top_n_sigma import TopNSigma
from histrio_samplers.top_p import TopP
from histrio_samplers.typical_p import TypicalP

VOCAB = 5_000
SAMPLERS = [Temperature, TopNSigma, TopK, TopP, MinP, TypicalP]
WARPERS: dict[str, Any] = {
    "temperature": TemperatureLogitsWarper,
    "top_k": TopKLogitsWarper,
    "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper,
    "typical_p": TypicalLogitsWarper,
}
FIELDS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.9, "top_k": 40},
    {"top_k": 1},
    {"top_k": 3000},
    {"top_k": 10**9, "top_p": 0.5},
    {"top_p": 1e-6},
    {"top_p": 0.9},
    {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
    {"temperature": 2.0, "top_p": 0.99},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"top_k": 100, "min_p": 0.2, "temperature": 1.5},
    {"typical_p": 0.2},
    {"typical_p": 0.95},
    {"typical_p": 1e-6},
    {"temperature": 1.2, "top_k": 500, "top_p": 0.97, "min_p": 0.01, "typical_p": 0.9},
]

Shape = Callable[..., npt.NDArray[np.float32]]


def _logits(rows: int, spread: float = 3.0) -> npt.NDArray[np.float32]:
    return (np.random.default_rng(4).standard_normal((rows, VOCAB)) * spread).astype(np.float32)


def _oracle(row: npt.NDArray[np.float32], fields: dict[str, Any]) -> npt.NDArray[np.float32]:
    ids, scores = torch.zeros((1, 0), dtype=torch.long), torch.tensor(row[None])
    for name, warper in WARPERS.items():
        if name in fields:
            scores = warper(fields[name])(ids, scores)
    return scores[0].numpy()


def _softmax(row: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    weights = np.exp(row.astype(np.float64) - row.max())
    return np.asarray(weights / weights.sum())


@pytest.mark.parametrize("spread", [0.3, 3.0, 12.0])
def test_kept_sets_and_distributions_equal_transformers(xp: ArrayNamespace, shape: Shape, spread: float) -> None:
    logits = _logits(len(FIELDS), spread)

    shaped = shape(xp, SAMPLERS, logits, FIELDS)

    for row, fields in enumerate(FIELDS):
        expected = _oracle(logits[row], fields)
        differing = np.count_nonzero(np.isfinite(shaped[row]) != np.isfinite(expected))
        # Of flat logits, tokens above and below the entropy may be equally far off to the last bit.
        assert differing <= (2 if "typical_p" in fields and spread < 1 else 0), fields
        assert differing > 0 or np.abs(_softmax(shaped[row]) - _softmax(expected)).max() < 1e-6
    assert sum(np.array_equal(shaped[row], logits[row]) for row in range(len(FIELDS))) <= 3


def test_other_rows_change_nothing(xp: ArrayNamespace, shape: Shape) -> None:
    logits = _logits(len(FIELDS))

    together = shape(xp, SAMPLERS, logits, FIELDS)

    alone = [shape(xp, SAMPLERS, logits[row : row + 1], FIELDS[row : row + 1])[0] for row in range(len(FIELDS))]
    assert np.array_equal(together, np.stack(alone))
    assert not np.array_equal(together[1:], np.stack(alone)[:-1]), "a control: rows differ"


@pytest.mark.parametrize("fields", FIELDS[1:], ids=str)
def test_removed_tokens_stay_removed_and_the_rest_is_shaped_as_alone(
    xp: ArrayNamespace, shape: Shape, fields: dict[str, Any]
) -> None:
    logits = _logits(2, spread=4.0)
    logits[0, ::2] = -np.inf
    logits[1, :] = -np.inf
    logits[1, 77] = -3.5

    shaped = shape(xp, SAMPLERS, logits, [fields, fields])

    expected = _oracle(logits[0, 1::2], fields)
    assert not np.isfinite(shaped[0, ::2]).any()
    assert np.array_equal(np.isfinite(shaped[0, 1::2]), np.isfinite(expected))
    assert np.flatnonzero(np.isfinite(shaped[1])).tolist() == [77]


@pytest.mark.parametrize("spread", [0.3, 3.0])
@pytest.mark.parametrize("n", [0.5, 1.0, 2.5])
def test_top_n_sigma_keeps_what_is_within_n_deviations_of_the_largest(
    xp: ArrayNamespace, shape: Shape, n: float, spread: float
) -> None:
    logits = _logits(4, spread) + 40
    logits[1, 100:] = -np.inf
    logits[3, 0] = 500

    shaped = shape(xp, [TopNSigma], logits, [{"top_n_sigma": n}, {"top_n_sigma": n}, {}, {"top_n_sigma": n}])

    for row in (0, 1, 3):
        there = logits[row][np.isfinite(logits[row])].astype(np.float64)
        kept = logits[row] >= there.max() - n * there.std()
        assert np.array_equal(np.isfinite(shaped[row]), kept)
        assert 0 < kept.sum() < len(there)
    assert np.array_equal(shaped[2], logits[2])


def test_top_n_sigma_does_not_depend_on_the_temperature(xp: ArrayNamespace, shape: Shape) -> None:
    logits = np.repeat(_logits(1), 2, axis=0)

    shaped = shape(xp, SAMPLERS, logits, [{"top_n_sigma": 2.0}, {"top_n_sigma": 2.0, "temperature": 0.5}])

    assert np.array_equal(np.isfinite(shaped[0]), np.isfinite(shaped[1]))
    assert not np.array_equal(shaped[0], shaped[1])


def test_rows_that_want_nothing_stay_bit_identical(xp: ArrayNamespace, shape: Shape) -> None:
    logits = _logits(len(FIELDS))

    shaped = shape(xp, SAMPLERS, logits, FIELDS)

    assert np.array_equal(shaped[0], logits[0])
    assert not np.array_equal(shaped[1], logits[1])


@pytest.mark.parametrize("field", ["top_p", "typical_p"])
def test_a_set_of_nearly_all_tokens_is_kept_as_a_whole(xp: ArrayNamespace, shape: Shape, field: str) -> None:
    logits = np.zeros((2, VOCAB), np.float32)
    logits[0] = np.linspace(0.001, 0, VOCAB, dtype=np.float32)  # nearly flat: 0.9 needs 4,500 tokens
    logits[1] = np.linspace(500, 0, VOCAB, dtype=np.float32)

    kept = np.isfinite(shape(xp, SAMPLERS, logits, [{field: 0.9}] * 2)).sum(axis=1)

    # Some five neighbours have the same distance from the entropy in float32, on either side of it.
    assert abs(int(kept[0]) - round(VOCAB * 0.9)) <= 10
    assert kept[1] < 50


def test_tokens_equal_to_the_last_one_kept_stay(xp: ArrayNamespace, shape: Shape) -> None:
    logits = np.full((5, 8), -5.0, np.float32)
    logits[:, [2, 5, 6]] = 1.0
    fields = [{"top_k": 2}, {"top_p": 0.4}, {"top_k": 4}, {"min_p": 1.0}, {"typical_p": 0.4}]

    kept = np.isfinite(shape(xp, SAMPLERS, logits, fields))

    for row in (0, 1, 3, 4):
        assert np.flatnonzero(kept[row]).tolist() == [2, 5, 6]
    assert kept[2].all()


def test_a_tiny_temperature_is_an_argmax_without_overflow(xp: ArrayNamespace, shape: Shape) -> None:
    logits = _logits(1) * 300

    shaped = shape(xp, SAMPLERS, logits, [{"temperature": 1e-45}])

    assert np.isfinite(shaped).all()
    assert _softmax(shaped[0]).max() == 1.0
    assert shaped[0].argmax() == logits[0].argmax()
