"""Temperature, top-k and top-p against the logits processors of transformers, which nobody here wrote."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from histrio.backend import ArrayNamespace
from histrio.sampling_fields import FieldTable
from histrio_samplers.temperature import Temperature
from histrio_samplers.top_k import TopK
from histrio_samplers.top_p import TopP

VOCAB = 5_000
SAMPLERS = [Temperature, TopK, TopP]
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
]


def _logits(rows: int, spread: float = 3.0) -> npt.NDArray[np.float32]:
    return (np.random.default_rng(4).standard_normal((rows, VOCAB)) * spread).astype(np.float32)


def _shaped(xp: ArrayNamespace, logits: npt.NDArray[np.float32], fields: list[dict[str, Any]]) -> npt.NDArray[Any]:
    """Row r of the logits after the samplers with `fields[r]`, all rows in one batch."""
    table, slots = FieldTable(SAMPLERS), np.arange(len(fields))
    array = xp.asarray(logits)
    for kind in SAMPLERS:
        sampler = kind(max_rows=len(fields))
        for slot, row_fields in enumerate(fields):
            sampler.open(slot, table.params(kind, row_fields), [], 0)
        if sampler.needed(slots):
            array = sampler.apply(xp, array, slots)
    return xp.to_host(array)


def _oracle(row: npt.NDArray[np.float32], fields: dict[str, Any]) -> npt.NDArray[np.float32]:
    ids, scores = torch.zeros((1, 0), dtype=torch.long), torch.tensor(row[None])
    if "temperature" in fields:
        scores = TemperatureLogitsWarper(fields["temperature"])(ids, scores)
    if "top_k" in fields:
        scores = TopKLogitsWarper(fields["top_k"])(ids, scores)
    if "top_p" in fields:
        scores = TopPLogitsWarper(fields["top_p"])(ids, scores)
    return scores[0].numpy()


def _softmax(row: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    weights = np.exp(row.astype(np.float64) - row.max())
    return np.asarray(weights / weights.sum())


@pytest.mark.parametrize("spread", [0.3, 3.0, 12.0])
def test_kept_sets_and_distributions_equal_transformers(xp: ArrayNamespace, spread: float) -> None:
    logits = _logits(len(FIELDS), spread)

    shaped = _shaped(xp, logits, FIELDS)

    for row, fields in enumerate(FIELDS):
        expected = _oracle(logits[row], fields)
        assert np.array_equal(np.isfinite(shaped[row]), np.isfinite(expected)), fields
        assert np.abs(_softmax(shaped[row]) - _softmax(expected)).max() < 1e-6
        assert np.array_equal(shaped[row], logits[row]) == (fields == {})


def test_rows_that_want_nothing_stay_bit_identical(xp: ArrayNamespace) -> None:
    logits = _logits(len(FIELDS))

    shaped = _shaped(xp, logits, FIELDS)

    assert np.array_equal(shaped[0], logits[0])
    assert not np.array_equal(shaped[1], logits[1])


def test_logits_given_to_samplers_are_not_modified(xp: ArrayNamespace) -> None:
    logits = _logits(len(FIELDS))
    before = logits.copy()

    shaped = _shaped(xp, logits, FIELDS)

    assert np.array_equal(logits, before)
    assert not np.array_equal(shaped, before)


def test_top_p_beyond_the_first_tokens_tried_keeps_the_whole_set(xp: ArrayNamespace) -> None:
    logits = np.zeros((2, VOCAB), np.float32)
    logits[0] = np.linspace(0.001, 0, VOCAB, dtype=np.float32)  # nearly flat: 0.9 needs 4,500 tokens
    logits[1] = np.linspace(500, 0, VOCAB, dtype=np.float32)

    kept = np.isfinite(_shaped(xp, logits, [{"top_p": 0.9}] * 2)).sum(axis=1)

    assert abs(int(kept[0]) - round(VOCAB * 0.9)) <= 5
    assert kept[1] < 50


def test_tokens_equal_to_the_last_one_kept_stay(xp: ArrayNamespace) -> None:
    logits = np.full((3, 8), -5.0, np.float32)
    logits[:, [2, 5, 6]] = 1.0

    kept = np.isfinite(_shaped(xp, logits, [{"top_k": 2}, {"top_p": 0.4}, {"top_k": 4}]))

    assert np.flatnonzero(kept[0]).tolist() == [2, 5, 6]
    assert np.flatnonzero(kept[1]).tolist() == [2, 5, 6]
    assert kept[2].all()


def test_a_tiny_temperature_is_an_argmax_without_overflow(xp: ArrayNamespace) -> None:
    logits = _logits(1, spread=1000.0)

    shaped = _shaped(xp, logits, [{"temperature": 1e-45}])

    assert np.isfinite(shaped).all()
    assert _softmax(shaped[0]).max() == 1.0
    assert shaped[0].argmax() == logits[0].argmax()
