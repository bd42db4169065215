"""Log probabilities are those of the model's raw logits, and only of rows that ask for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from histrio.contracts.backend import ArrayNamespace
from histrio.messages import Ask, Open
from histrio.stage.sampling.logprobs import token_logprobs
from histrio.stage.sampling.sampler_chain import NOT_NUMBERS, NOTHING_LEFT, SamplerChain
from histrio_samplers.plugin import SAMPLERS

VOCAB = 700
LOGITS = (np.random.default_rng(1).standard_normal((5, VOCAB)) * 3).astype(np.float32)
EXPECTED = torch.log_softmax(torch.tensor(LOGITS, dtype=torch.float64), dim=-1).numpy()
BENT: dict[str, Any] = {"temperature": 0.2, "repetition_penalty": 3.0, "logit_bias": {"1": 30.0}, "top_k": 3}


def _sample(
    xp: ArrayNamespace, asked: list[int | None], fields: dict[str, Any], logits: Any = LOGITS, raw: Any = None
) -> Any:
    chain = SamplerChain(SAMPLERS, max_slots=len(asked))
    for slot, count in enumerate(asked):
        chain.open(Open(slot, [1, 2], 2, Ask(fields, num_logprobs=count, seed=slot), slot))
    return chain.sample(xp, xp.asarray(logits), np.arange(len(asked)), np.full(len(asked), 2), raw=raw)


@pytest.mark.parametrize("fields", [{}, {"temperature": 0}, BENT], ids=["sampled", "greedy", "bent"])
def test_chosen_and_top_logprobs_are_of_the_raw_logits(xp: ArrayNamespace, fields: dict[str, Any]) -> None:
    sampled = _sample(xp, [0, None, 5, 2, None], fields)

    assert set(sampled.logprobs) == {0, 2, 3}
    for row, count in ((0, 0), (2, 5), (3, 2)):
        found, best = sampled.logprobs[row], np.argsort(-EXPECTED[row])[:count].tolist()
        assert found.logprob == pytest.approx(EXPECTED[row, sampled.ids[row]], abs=1e-4)
        assert [token for token, _ in found.top] == best
        assert [logprob for _, logprob in found.top] == pytest.approx(EXPECTED[row, best], abs=1e-4)
    assert sampled.logprobs[0].logprob != pytest.approx(EXPECTED[1, sampled.ids[0]], abs=1e-4)


def test_asking_for_logprobs_changes_no_token(xp: ArrayNamespace) -> None:
    for fields in ({}, {"temperature": 0}, BENT):
        assert _sample(xp, [3] * 5, fields).ids == _sample(xp, [None] * 5, fields).ids
    assert _sample(xp, [None] * 5, {}).logprobs == {}


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_of_masked_logits_they_are_those_of_the_model_behind_them(xp: ArrayNamespace, temperature: float) -> None:
    masked = LOGITS.copy()
    masked[:, 1:] = -np.inf
    fields = {"temperature": temperature}

    sampled = _sample(xp, [1] * 5, fields, logits=masked, raw=xp.asarray(LOGITS))

    assert sampled.ids == [0] * 5
    assert [sampled.logprobs[row].logprob for row in range(5)] == pytest.approx(EXPECTED[:, 0], abs=1e-4)
    blind = _sample(xp, [1] * 5, fields, logits=masked)
    assert [blind.logprobs[row].logprob for row in range(5)] == pytest.approx([0.0] * 5)


def test_a_mask_that_leaves_nothing_is_not_the_model_s_fault(xp: ArrayNamespace) -> None:
    masked = LOGITS.copy()
    masked[2] = -np.inf
    with np.errstate(invalid="ignore"):
        ids = _sample(xp, [None] * 5, {}, logits=masked, raw=xp.asarray(LOGITS)).ids
        broken = _sample(xp, [None] * 5, {}, logits=masked).ids

    assert (ids[2], broken[2]) == (NOTHING_LEFT, NOT_NUMBERS)
    assert [row for row, token in enumerate(ids) if token < 0] == [2]


def test_with_drafts_they_belong_to_the_accepted_tokens(xp: ArrayNamespace) -> None:
    chain = SamplerChain(SAMPLERS, max_slots=2)
    for slot in (0, 1):
        chain.open(Open(slot, [1], 1, Ask({"temperature": 0}, num_logprobs=1, seed=0), 0))
    best = LOGITS.argmax(axis=1).tolist()
    drafts = {0: [best[0], best[1] + 1]}

    sampled = chain.sample(xp, xp.asarray(LOGITS[:4]), np.array([0, 0, 0, 1]), np.array([1, 2, 3, 1]), drafts)

    assert (sampled.ids, sampled.num_ids) == ([best[0], best[1], best[3]], [2, 1])
    expected = EXPECTED[[0, 1, 3], sampled.ids]
    assert [sampled.logprobs[at].logprob for at in range(3)] == pytest.approx(expected, abs=1e-4)


def test_given_tokens_have_logprobs_too(xp: ArrayNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = token_logprobs(xp, xp.asarray(LOGITS), [3, 699, 0, 5, 5], [0, 1, 0, 2, 0])
    monkeypatch.setattr(xp, "chunk_values", 2 * VOCAB)

    assert [each.logprob for each in whole] == pytest.approx(EXPECTED[range(5), [3, 699, 0, 5, 5]], abs=1e-4)
    assert [len(each.top) for each in whole] == [0, 1, 0, 2, 0]
    assert token_logprobs(xp, xp.asarray(LOGITS), [3, 699, 0, 5, 5], [0, 1, 0, 2, 0]) == whole


@pytest.mark.parametrize("num_top", [0, 2])
def test_a_rank_counts_the_tokens_that_are_more_likely(
    xp: ArrayNamespace, num_top: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xp, "chunk_values", 2 * VOCAB)
    given = [int(LOGITS[0].argmax()), int(LOGITS[1].argmin()), 0, 5, 6]
    ranks = np.argsort(np.argsort(-LOGITS, axis=-1), axis=-1)[range(5), given]

    found = token_logprobs(xp, xp.asarray(LOGITS), given, [num_top] * 5, with_ranks=True)

    assert [each.rank for each in found] == (ranks + 1).tolist()
    assert (ranks[0], ranks[1]) == (0, VOCAB - 1)
    others = token_logprobs(xp, xp.asarray(LOGITS[::-1].copy()), given, [num_top] * 5, with_ranks=True)
    assert [each.rank for each in others] != [each.rank for each in found], "a control: the rows of others"
    assert {each.rank for each in token_logprobs(xp, xp.asarray(LOGITS), given, [num_top] * 5)} == {0}


def test_of_equals_the_rank_is_the_last_one(xp: ArrayNamespace) -> None:
    logits = np.array([[1, 3, 2, 2, 0]], np.float32)
    ranks = [token_logprobs(xp, xp.asarray(logits), [each], [0], with_ranks=True)[0].rank for each in range(5)]
    assert ranks == [4, 1, 3, 3, 5]


def test_named_tokens_stand_in_place_of_the_likeliest(xp: ArrayNamespace) -> None:
    chain = SamplerChain(SAMPLERS, max_slots=5)
    named: dict[int, list[int]] = {1: [699, 3, 5], 2: [7], 4: []}
    for slot in range(5):
        ask = Ask({}, num_logprobs=None if slot == 3 else 2, seed=slot, logprob_token_ids=named.get(slot, []))
        chain.open(Open(slot, [1, 2], 2, ask, slot))
    sampled = chain.sample(xp, xp.asarray(LOGITS), np.arange(5), np.full(5, 2))
    assert set(sampled.logprobs) == {0, 1, 2, 4}
    for row, found in sampled.logprobs.items():
        expected = sorted(
            named.get(row) or np.argsort(-EXPECTED[row])[:2].tolist(), key=lambda id_: -EXPECTED[row, id_]
        )
        assert [token for token, _ in found.top] == expected
        assert [logprob for _, logprob in found.top] == pytest.approx(EXPECTED[row, expected], abs=1e-4)
        assert found.logprob == pytest.approx(EXPECTED[row, sampled.ids[row]], abs=1e-4)

    chain.open(Open(1, [1, 2], 2, Ask({}, num_logprobs=0), 9))
    again = chain.sample(xp, xp.asarray(LOGITS[1:2]), np.array([1]), np.array([2]))
    assert again.logprobs[0].top == [], "the slot's next sequence names none"
