"""Drafts that were drawn: against which distribution they are measured, on every kind of array, and odd cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from histrio.contracts.backend import ArrayNamespace
from histrio.contracts.philox import uniform
from histrio.contracts.sampler import DraftProbs, LogitsRows
from histrio.messages import Ask, Open
from histrio.stage.sampling import sampler_chain
from histrio.stage.sampling.acceptance import Proposals, accept_or_draw
from histrio.stage.sampling.inverse_cdf import draw
from histrio.stage.sampling.numpy_arrays import NumpyArrays
from histrio.stage.sampling.sampler_chain import NOT_NUMBERS, Sampled, SamplerChain
from histrio_samplers.plugin import SAMPLERS

VOCAB = 40
PROMPT = [3, 1, 2, 7, 3, 1, 2]
FIELDS: dict[str, dict[str, Any]] = {
    "allowed_token_ids": {"allowed_token_ids": list(range(0, VOCAB, 3))},
    "bad_words": {"bad_words_ids": [[2, 9], [9, 12], *([token] for token in range(20, 30))]},
    "min_tokens": {"min_tokens": 2},
    "logit_bias": {"logit_bias": {"3": 3.0}},
    "repetition_penalty": {"repetition_penalty": 1.8},
    "occurrence_penalties": {"presence_penalty": 1.0, "frequency_penalty": 1.0},
    "dry": {"dry_multiplier": 2.0, "dry_allowed_length": 1},
    "temperature": {"temperature": 0.6},
    "top_n_sigma": {"top_n_sigma": 1.5},
    "top_k": {"top_k": 12},
    "top_p": {"top_p": 0.8},
    "min_p": {"min_p": 0.05},
    "typical_p": {"typical_p": 0.7},
    "xtc": {"xtc_probability": 0.6, "xtc_threshold": 0.02},
    "mirostat": {"mirostat": 2, "mirostat_tau": 2.5, "mirostat_eta": 0.6},
}
ALL = {name: value for fields in FIELDS.values() for name, value in fields.items()}
DRAFTS = [9, 12, 3]


def _logits(rows: int, vocab: int = VOCAB) -> npt.NDArray[np.float32]:
    return (np.random.default_rng(8).standard_normal((rows, vocab)) * 1.5).astype(np.float32)


def _rows(count: int) -> LogitsRows:
    seeds = np.arange(count, dtype=np.uint64)
    return LogitsRows(np.arange(count), np.full(count, 5), seeds, np.zeros(count, np.uint32))


def _draft_probs(token: int, weight: float = 0.5) -> DraftProbs:
    """A distribution with this token among others."""
    return [(0, 0.5 * (1 - weight)), (token, weight), (1, 0.5 * (1 - weight))]


def _verified(
    xp: ArrayNamespace, fields: dict[str, Any], *, is_seeded: bool, draft_probs: Any = None
) -> tuple[Sampled, SamplerChain]:
    """One step of a sequence with three drafts."""
    chain = SamplerChain(SAMPLERS, max_slots=1)
    chain.open(
        Open(0, PROMPT, len(PROMPT), Ask(fields, stop_ids=[9, 5], num_logprobs=2, seed=4 if is_seeded else None), 4)
    )
    draft_probs = {0: [_draft_probs(token) for token in DRAFTS]} if draft_probs is None else draft_probs
    slots, positions = np.zeros(4, np.intp), len(PROMPT) + np.arange(4)
    return chain.sample(xp, xp.asarray(_logits(4)), slots, positions, {0: DRAFTS}, draft_probs), chain


@pytest.mark.parametrize("name", [*FIELDS, "all"])
def test_drafts_are_measured_against_what_the_row_is_drawn_from(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For every sampler: the distribution that coupled draws use, with the drafts before the row in force."""
    seen: list[npt.NDArray[np.float32]] = []

    def spy(function: Any) -> Any:
        def call(xp: Any, logits: Any, *others: Any) -> Any:
            seen.append(logits.copy())
            return function(xp, logits, *others)

        return call

    monkeypatch.setattr(sampler_chain, "draw", spy(draw))
    monkeypatch.setattr(sampler_chain, "accept_or_draw", spy(accept_or_draw))
    fields = ALL if name == "all" else FIELDS[name]

    _verified(NumpyArrays(), fields, is_seeded=True)
    _verified(NumpyArrays(), fields, is_seeded=False)
    _verified(NumpyArrays(), {}, is_seeded=False)

    assert len(seen) == 3
    assert np.array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0], seen[2])


@pytest.mark.parametrize("name", [*FIELDS, "all"])
def test_every_kind_of_array_decides_alike(xp: ArrayNamespace, name: str) -> None:
    fields = ALL if name == "all" else FIELDS[name]

    sampled, chain = _verified(xp, fields, is_seeded=False)
    expected, reference = _verified(NumpyArrays(), fields, is_seeded=False)

    assert (sampled.ids, sampled.num_ids) == (expected.ids, expected.num_ids)
    assert len(sampled.logprobs) == len(sampled.ids)
    states, others = chain.take_states(), reference.take_states()
    assert states.keys() == others.keys()
    assert all(states[0][each] == pytest.approx(others[0][each], rel=1e-5) for each in states.get(0, {}))


def test_mirostat_learns_the_probability_that_a_kept_draft_had_in_the_target() -> None:
    fields = {"mirostat": 2, "mirostat_tau": 5.0, "mirostat_eta": 0.5}
    certain = {0: [[(token, 1e-6), (token + 1, 1 - 1e-6)] for token in DRAFTS]}

    sampled, chain = _verified(NumpyArrays(), fields, is_seeded=False, draft_probs=certain)

    assert sampled.ids[:3] == DRAFTS
    mu = 10.0
    for row, token in zip(_logits(4).astype(np.float64), sampled.ids, strict=True):
        weights = np.exp(row) / np.exp(row).sum()
        weights[(-np.log2(weights) > mu) & (weights < weights.max())] = 0
        mu -= 0.5 * (-np.log2(weights[token] / weights.sum()) - 5.0)
    assert chain.take_states()[0]["mirostat"] == pytest.approx(mu, rel=1e-5)
    assert mu != pytest.approx(10.0, abs=0.1)


@pytest.mark.parametrize("vocab", [VOCAB, 5000])
def test_a_draft_is_kept_where_the_target_likes_it_as_much_and_never_where_it_is_impossible(
    xp: ArrayNamespace, vocab: int
) -> None:
    logits, rows = _logits(90, vocab), _rows(90)
    drafts = {slot: [slot % VOCAB] for slot in range(90)}
    weights = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum(axis=1, keepdims=True)
    same = {slot: [list(enumerate(weights[slot].tolist()))] for slot in range(90)}
    logits[1::3, :] = np.where(np.arange(vocab) == (np.arange(90) % VOCAB)[1::3, None], -np.inf, logits[1::3])

    ids, probabilities = accept_or_draw(xp, xp.asarray(logits), rows, Proposals.of_step(rows.slots, drafts, same))

    is_kept = ids == np.arange(90) % VOCAB
    assert not is_kept[1::3].any()
    assert is_kept[0::3].all()
    assert (probabilities > 0).all()


def test_tokens_that_the_drafter_likes_more_are_never_drawn_instead(xp: ArrayNamespace) -> None:
    logits, rows = np.zeros((400, 4), np.float32), _rows(400)
    draft_probs = {slot: [[(0, 0.4), (1, 0.5), (2, 0.1)]] for slot in range(400)}
    drafts = {slot: [1] for slot in range(400)}

    ids, _ = accept_or_draw(xp, xp.asarray(logits), rows, Proposals.of_step(rows.slots, drafts, draft_probs))

    counts = np.bincount(ids, minlength=4)
    assert counts[0] == 0
    assert counts[1] == pytest.approx(200, abs=50)
    assert counts[3] > 1.2 * counts[2] > 0


def test_rows_that_verify_nothing_are_drawn_as_ever(xp: ArrayNamespace) -> None:
    """The last row of a sequence, rows without drafts, and drafts that could not have been drawn."""
    logits, slots = _logits(5), np.array([0, 0, 1, 2, 2])
    rows = LogitsRows(slots, np.arange(5), np.arange(5, dtype=np.uint64), np.zeros(5, np.uint32))
    proposals = Proposals.of_step(slots, {0: [7], 2: [8]}, {0: [_draft_probs(7)], 2: [_draft_probs(9)]})

    ids, probabilities = accept_or_draw(xp, xp.asarray(logits), rows, proposals)

    drawn, expected = draw(xp, xp.asarray(logits), uniform(rows.seeds, rows.choices, rows.positions))
    assert proposals.drafted.tolist() == [7, -1, -1, -1, -1]
    assert ids[1:].tolist() == drawn[1:].tolist()
    assert probabilities[1:] == pytest.approx(expected[1:])
    assert not proposals.is_empty
    assert proposals.take(slice(1, 5)).is_empty


def test_tokens_beyond_the_vocabulary_of_the_target_change_nothing(xp: ArrayNamespace) -> None:
    logits, rows, drafts = xp.asarray(_logits(50)), _rows(50), {slot: [7] for slot in range(50)}
    known: DraftProbs = [(7, 0.03), (3, 0.87)]
    larger = {slot: [[(VOCAB + 5, 0.1), *known]] for slot in range(50)}
    ids, _ = accept_or_draw(xp, logits, rows, Proposals.of_step(rows.slots, drafts, larger))

    logits = xp.asarray(_logits(50))
    expected, _ = accept_or_draw(xp, logits, rows, Proposals.of_step(rows.slots, drafts, {s: [known] for s in drafts}))

    assert ids.tolist() == expected.tolist()
    assert 0 < (ids == 7).sum() < 50


@pytest.mark.parametrize("fields", [{"temperature": 0}, {"temperature": 0, "frequency_penalty": 1.0}])
def test_greedy_rows_do_not_care_what_drafts_were_drawn_from(xp: ArrayNamespace, fields: dict[str, Any]) -> None:
    sampled, _ = _verified(xp, fields, is_seeded=False)
    seeded, _ = _verified(xp, fields, is_seeded=True)

    assert (sampled.ids, sampled.num_ids) == (seeded.ids, seeded.num_ids)
    assert sampled.ids[0] != DRAFTS[0]


def test_a_row_without_a_distribution_is_told_and_so_are_broken_logits(xp: ArrayNamespace) -> None:
    nothing = {"allowed_token_ids": [9], "min_tokens": 10}

    sampled, _ = _verified(xp, nothing, is_seeded=False)

    assert (sampled.ids, sampled.num_ids) == ([-1], [1])
    chain = SamplerChain(SAMPLERS, max_slots=1)
    chain.open(Open(0, PROMPT, len(PROMPT), seed=4))
    broken = xp.asarray(np.full((2, VOCAB), np.nan, np.float32))
    with np.errstate(invalid="ignore"):
        sampled = chain.sample(xp, broken, np.zeros(2, np.intp), np.array([7, 8]), {0: [9]}, {0: [_draft_probs(9)]})
    assert (sampled.ids, sampled.num_ids) == ([NOT_NUMBERS], [1])
