"""Constraints and penalties against transformers' processors, or against their definition in plain Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from histrio.contracts.backend import ArrayNamespace
from histrio.contracts.sampler import Sampler
from histrio_samplers.allowed_token_ids import AllowedTokenIds
from histrio_samplers.bad_words import BadWords
from histrio_samplers.logit_bias import LogitBias
from histrio_samplers.min_tokens import MinTokens
from histrio_samplers.occurrence_penalties import OccurrencePenalties
from histrio_samplers.repetition_penalty import RepetitionPenalty

VOCAB = 300
RNG = np.random.default_rng(11)
SEQUENCES = [RNG.integers(0, VOCAB, length).tolist() for length in (40, 1, 200, 7)]
SEQUENCES[1] = [VOCAB - 1]
LOGITS = (RNG.standard_normal((len(SEQUENCES), VOCAB)) * 4).astype(np.float32)
LOGITS[:, 5] = -np.inf
LOGITS[:, 6] = 0

Shape = Callable[..., npt.NDArray[np.float32]]


def _processed(processor: Any, row: int, ids: list[int] | None = None) -> npt.NDArray[np.float32]:
    ids = SEQUENCES[row] if ids is None else ids
    return np.asarray(processor(torch.tensor([ids], dtype=torch.long), torch.tensor(LOGITS[row : row + 1]))[0])


@pytest.mark.parametrize("penalty", [1.3, 0.5])
def test_repetition_penalty_equals_transformers(xp: ArrayNamespace, shape: Shape, penalty: float) -> None:
    fields = [{"repetition_penalty": penalty}, {"repetition_penalty": penalty}, {}, {"repetition_penalty": 3 * penalty}]

    shaped = shape(xp, [RepetitionPenalty], LOGITS, fields, ids=SEQUENCES)

    for row, own in enumerate(fields):
        expected = _processed(RepetitionPenaltyLogitsProcessor(own.get("repetition_penalty", 1.0)), row)
        np.testing.assert_allclose(shaped[row], expected, rtol=1e-6)
        assert np.array_equal(shaped[row], LOGITS[row]) == (own == {})


@pytest.mark.parametrize("kind", [RepetitionPenalty, OccurrencePenalties, BadWords], ids=lambda kind: kind.name)
def test_drafts_count_as_if_they_were_part_of_the_sequence(
    xp: ArrayNamespace, shape: Shape, kind: type[Sampler]
) -> None:
    fields: list[dict[str, Any]] = [
        {"repetition_penalty": 1.5},
        {"frequency_penalty": 1.0, "presence_penalty": 0.5},
        {"bad_words_ids": [[7, 8, 9]]},
    ]
    own = [{name: value for name, value in each.items() if name in kind.params.__struct_fields__} for each in fields]
    ids, drafts = [[1, 2, 3]] * 3, [[7, 8], [2, 2, 290], [7, 8]]
    prompts = {"num_prompt_tokens": [2] * 3}
    logits = LOGITS[:3]

    drafted = shape(xp, [kind], logits, own, ids=ids, drafts=drafts, **prompts)
    known = [[*before, *after] for before, after in zip(ids, drafts, strict=True)]

    assert np.array_equal(drafted, shape(xp, [kind], logits, own, ids=known, **prompts))
    assert not np.array_equal(drafted, shape(xp, [kind], logits, own, ids=ids, **prompts))


@pytest.mark.parametrize("kind", [RepetitionPenalty, OccurrencePenalties, BadWords], ids=lambda kind: kind.name)
def test_observed_tokens_count_as_if_known_from_the_start(
    xp: ArrayNamespace, shape: Shape, kind: type[Sampler]
) -> None:
    every = {"repetition_penalty": 1.5, "frequency_penalty": 1.0, "bad_words_ids": [[17, 1, 2]]}
    own = {name: value for name, value in every.items() if name in kind.params.__struct_fields__}
    observed = [*range(100), 17, 1]
    prompts = {"num_prompt_tokens": [1]}

    after = shape(xp, [kind], LOGITS[:1], [own], ids=[[3]], observed=[observed], **prompts)

    assert np.array_equal(after, shape(xp, [kind], LOGITS[:1], [own], ids=[[3, *observed]], **prompts))
    assert not np.array_equal(after, shape(xp, [kind], LOGITS[:1], [own], ids=[[3]], **prompts))


def test_presence_and_frequency_penalties_count_the_output_only(xp: ArrayNamespace, shape: Shape) -> None:
    fields: list[dict[str, float]] = [
        {"presence_penalty": 0.7},
        {"frequency_penalty": -0.4},
        {"presence_penalty": -2, "frequency_penalty": 2},
        {},
    ]
    ids = [[1, 2, 3, 9, 9, 4], [1, 1, 1, 1], [8] * 20, [1, 2, 3, 3]]
    prompts = [3, 4, 1, 1]

    shaped = shape(xp, [OccurrencePenalties], LOGITS, fields, ids=ids, num_prompt_tokens=prompts)

    for row, own in enumerate(fields):
        expected = LOGITS[row].copy()
        for token, count in Counter(ids[row][prompts[row] :]).items():
            expected[token] -= own.get("presence_penalty", 0) + count * own.get("frequency_penalty", 0)
        np.testing.assert_allclose(shaped[row], expected, rtol=1e-5)
    changed = [np.flatnonzero(shaped[row] != LOGITS[row]).tolist() for row in range(4)]
    assert changed == [[4, 9], [], [8], []]


def test_logit_bias_equals_transformers(xp: ArrayNamespace, shape: Shape) -> None:
    biases = [{"5": 100.0, "0": -100.0, "299": 2.5}, {}, {"17": 1e-3}, {"6": -7.0}]

    shaped = shape(xp, [LogitBias], LOGITS, [{"logit_bias": bias} for bias in biases])

    for row, bias in enumerate(biases):
        expected = LOGITS[row]
        if bias:
            sequences: list[list[list[int] | float]] = [[[int(token)], value] for token, value in bias.items()]
            expected = _processed(SequenceBiasLogitsProcessor(sequences), row)
        np.testing.assert_allclose(shaped[row], expected, rtol=1e-6)
    assert np.flatnonzero(shaped[0] != LOGITS[0]).tolist() == [0, 299]  # -inf stays -inf


@pytest.mark.parametrize("num_output_tokens", [0, 2, 3, 10])
def test_min_tokens_equals_transformers(xp: ArrayNamespace, shape: Shape, num_output_tokens: int) -> None:
    prompt, ends = [4, 4, 4], [7, 9]
    ids = [prompt + [1] * num_output_tokens] * 2

    shaped = shape(
        xp, [MinTokens], LOGITS[:2], [{"min_tokens": 3}, {}], ids=ids, num_prompt_tokens=[3, 3], end_ids=ends
    )

    processor = MinNewTokensLengthLogitsProcessor(len(prompt), 3, ends)
    assert np.array_equal(shaped[0], _processed(processor, 0, ids[0]))
    assert np.array_equal(shaped[0], LOGITS[0]) == (num_output_tokens >= 3)
    assert np.array_equal(shaped[1], LOGITS[1])


def test_min_tokens_counts_drafts_and_needs_something_that_could_end_the_text(xp: ArrayNamespace, shape: Shape) -> None:
    fields, ids, drafts = [{"min_tokens": 3}] * 2, [[1]] * 2, [[5, 5], [5, 5, 5]]

    shaped = shape(xp, [MinTokens], LOGITS[:2], fields, ids=ids, drafts=drafts, end_ids=[9])

    assert np.flatnonzero(shaped[0] != LOGITS[0]).tolist() == [9]
    assert np.array_equal(shaped[1], LOGITS[1])
    assert np.array_equal(shape(xp, [MinTokens], LOGITS[:2], fields, ids=ids), LOGITS[:2])


def test_bad_words_equal_transformers(xp: ArrayNamespace, shape: Shape) -> None:
    ids = [[1, 2, 3], [3], [9, 1, 2], [5]]
    words = [[[4], [2, 3, 8], [1, 2, 3, 299], [3, 7], [1, 3, 6]], [[1, 3, 5], [3, 3]], [], [[1, 2]]]

    shaped = shape(xp, [BadWords], LOGITS, [{"bad_words_ids": own} for own in words], ids=ids)

    for row in (0, 1, 3):
        assert np.array_equal(shaped[row], _processed(NoBadWordsLogitsProcessor(words[row]), row, ids[row]))
    assert np.flatnonzero(shaped[0] != LOGITS[0]).tolist() == [4, 7, 8, 299]
    assert np.array_equal(shaped[2:], LOGITS[2:])


def test_only_allowed_tokens_stay(xp: ArrayNamespace, shape: Shape) -> None:
    allowed: list[list[int] | None] = [[3, 299, 3, 4000], None, [5, 17], [4000]]

    shaped = shape(xp, [AllowedTokenIds], LOGITS, [{"allowed_token_ids": own} for own in allowed])

    assert np.flatnonzero(np.isfinite(shaped[0])).tolist() == [3, 299]
    assert np.array_equal(shaped[0, [3, 299]], LOGITS[0, [3, 299]])
    assert np.array_equal(shaped[1], LOGITS[1])
    assert np.flatnonzero(np.isfinite(shaped[2])).tolist() == [17]
    assert not np.isfinite(shaped[3]).any()


def test_ids_beyond_the_vocabulary_name_no_token(xp: ArrayNamespace, shape: Shape) -> None:
    fields: list[dict[str, Any]] = [{"logit_bias": {"4000": 5.0, "3": 1.0}}, {"bad_words_ids": [[300]]}]

    shaped = shape(xp, [LogitBias, BadWords], LOGITS[:2], fields, ids=[[1], [1]])

    assert np.flatnonzero(shaped[0] != LOGITS[0]).tolist() == [3]
    assert np.array_equal(shaped[1], LOGITS[1])
