"""Speculation leaves the distribution as it is: tokens, pairs and triples of them come as often as they should.

The model is a Markov chain over a few tokens, so the probabilities of everything are known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from histrio.contracts.backend import ArrayNamespace
from histrio.contracts.philox import uniform
from histrio.contracts.sampler import DraftProbs, LogitsRows
from histrio.messages import Ask, Open
from histrio.stage.sampling import sampler_chain
from histrio.stage.sampling.acceptance import Proposals
from histrio.stage.sampling.inverse_cdf import draw
from histrio.stage.sampling.numpy_arrays import NumpyArrays
from histrio.stage.sampling.sampler_chain import SamplerChain
from histrio_samplers.plugin import SAMPLERS

Floats = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]

VOCAB = 6
NUM_DRAFTS = 2
NUM_STREAMS = 1000
TARGET = (np.random.default_rng(1).standard_normal((VOCAB, VOCAB)) * 1.5).astype(np.float32)
"""[token, next token] logits."""
DRAFTED = np.random.default_rng(2).standard_normal((VOCAB, VOCAB)) * 1.5
DRAFTED[:, 2] = -np.inf
"""The drafter's, which knows nothing of the target, and not all of its tokens."""


def _softmax(logits: Floats) -> Floats:
    weights = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


class _Numbers:
    """A drafter's own, one after the other."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(3)

    def __call__(self, positions: Ints) -> Floats:
        return self._rng.random(len(positions))


@dataclass
class _Drafter:
    """Draws two tokens ahead of each stream; `told` is what it says they were drawn from, if anything."""

    drawn_from: Floats = field(default_factory=lambda: _softmax(DRAFTED))
    told: Floats | None = None
    numbers: Callable[[Ints], Floats] = field(default_factory=_Numbers)
    """From the positions of a token in all streams, the numbers to draw it with."""

    def propose(self, last: Ints, positions: Ints) -> tuple[Ints, list[list[DraftProbs]]]:
        """Drafts [streams, 2], the first at these positions, and their probabilities if they are to be known."""
        drafts = np.zeros((len(last), NUM_DRAFTS), np.int64)
        before = last
        for index in range(NUM_DRAFTS):
            ends = self.drawn_from[before].cumsum(axis=1)
            before = drafts[:, index] = (ends < self.numbers(positions + index)[:, None] * ends[:, -1:]).sum(axis=1)
        if self.told is None:
            return drafts, []

        rows = [[(token, float(row[token])) for token in np.flatnonzero(row).tolist()] for row in self.told]
        known = np.column_stack([last, drafts])[:, :NUM_DRAFTS].tolist()
        return drafts, [[rows[token] for token in stream] for stream in known]


def _streams(
    xp: ArrayNamespace, fields: dict[str, Any], drafter: _Drafter | None, num_tokens: int, *, is_seeded: bool = False
) -> tuple[Ints, float]:
    """[streams, num_tokens] after token 0, and how many tokens a step gave on average."""
    chain, slots = SamplerChain(SAMPLERS, max_slots=NUM_STREAMS), np.arange(NUM_STREAMS)
    for slot in range(NUM_STREAMS):
        chain.open(Open(slot, [0], 1, Ask(fields, seed=slot if is_seeded else None), slot))
    known = [[0] for _ in range(NUM_STREAMS)]
    logits, num_steps = xp.asarray(TARGET), 0
    while min(map(len, known)) <= num_tokens:
        last = np.array([stream[-1] for stream in known])
        lengths = np.array(list(map(len, known)))
        drafts, draft_probs = drafter.propose(last, lengths) if drafter else (np.zeros((NUM_STREAMS, 0), np.int64), [])
        tokens = np.column_stack([last, drafts])
        sampled = chain.sample(
            xp,
            xp.take_rows(logits, tokens.ravel()),
            np.repeat(slots, tokens.shape[1]),
            (lengths[:, None] + np.arange(tokens.shape[1])).ravel(),
            dict(enumerate(drafts.tolist())) if drafter else None,
            dict(enumerate(draft_probs)),
        )
        gained = iter(sampled.ids)
        for stream, count in zip(known, sampled.num_ids or [1] * NUM_STREAMS, strict=True):
            stream.extend(next(gained) for _ in range(count))
        num_steps += 1
    total = sum(map(len, known)) / NUM_STREAMS
    return np.array([stream[: num_tokens + 1] for stream in known]), total / num_steps


def _expected(fields: dict[str, Any]) -> Floats:
    """[token, next token] probabilities, computed naively."""
    weights = _softmax(TARGET / fields.get("temperature", 1.0))
    if "top_k" in fields:
        weights[weights < np.sort(weights, axis=1)[:, [-fields["top_k"]]]] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    if "xtc_probability" not in fields:
        return weights

    good = weights >= fields["xtc_threshold"]
    least = np.where(good, weights, 2).min(axis=1, keepdims=True)
    cut = np.where(weights > least, 0, weights)
    share = fields["xtc_probability"]
    return np.asarray((1 - share) * weights + share * cut / cut.sum(axis=1, keepdims=True))


def _is_plausible(streams: Ints, expected: Floats) -> bool:
    """Chi-squared of every token, given the one, and given the two, before it."""
    first, second, third = (streams[:, at : streams.shape[1] - 2 + at].ravel() for at in range(3))
    for before in (second, first * VOCAB + second):
        counts = np.zeros((VOCAB**2, VOCAB))
        np.add.at(counts, (before, third), 1)
        mean_counts = counts.sum(axis=1, keepdims=True) * np.tile(expected, (VOCAB, 1))
        if (counts[mean_counts == 0] > 0).any():
            return False
        statistic = ((counts - mean_counts)[mean_counts > 0] ** 2 / mean_counts[mean_counts > 0]).sum()
        freedom = np.count_nonzero(mean_counts) - np.count_nonzero(mean_counts.any(axis=1))
        if statistic > freedom + 5 * np.sqrt(2 * freedom):
            return False
    return True


MANY, FEW = 102, 22
"""Tokens of a stream: together 10^5, and as many as controls need."""
FIELDS: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (MANY, {}),
    "truncated": (FEW, {"temperature": 1.4, "top_k": 4}),
    "xtc": (FEW, {"xtc_probability": 0.4, "xtc_threshold": 0.15}),
}


def _same_numbers(positions: Ints) -> Floats:
    """Those that the streams themselves are drawn with."""
    streams = np.arange(NUM_STREAMS)
    return uniform(streams.astype(np.uint64), np.zeros(NUM_STREAMS, np.uint32), positions.astype(np.uint32))


@pytest.mark.parametrize("name", FIELDS)
def test_drawn_drafts_leave_the_distribution_as_it_is(name: str) -> None:
    num_tokens, fields = FIELDS[name]

    streams, per_step = _streams(NumpyArrays(), fields, _Drafter(told=_softmax(DRAFTED)), num_tokens)

    assert _is_plausible(streams, _expected(fields))
    assert not _is_plausible(streams, np.roll(_expected(fields), 1, axis=0))
    assert per_step > 1.5


def test_drafts_that_were_not_drawn_leave_the_distribution_as_it_is() -> None:
    streams, _ = _streams(NumpyArrays(), {}, _Drafter(), MANY, is_seeded=True)

    assert _is_plausible(streams, _expected({}))
    alone, _ = _streams(NumpyArrays(), {}, None, FEW, is_seeded=True)
    assert np.array_equal(streams[:, : FEW + 1], alone)


@pytest.mark.parametrize("told", [None, _softmax(DRAFTED)], ids=["most likely", "drawn"])
def test_drafts_change_no_token_of_a_stream_whose_seed_was_chosen(told: Floats | None) -> None:
    alone, _ = _streams(NumpyArrays(), {}, None, FEW)

    drafted, per_step = _streams(NumpyArrays(), {}, _Drafter(told=told), FEW, is_seeded=True)

    assert np.array_equal(drafted, alone)
    assert per_step > 1.2
    unseeded, _ = _streams(NumpyArrays(), {}, _Drafter(told=_softmax(DRAFTED)), FEW)
    assert not np.array_equal(unseeded, alone)


def test_a_drafter_may_draw_with_the_numbers_of_the_stream() -> None:
    drafter = _Drafter(told=_softmax(DRAFTED), numbers=_same_numbers)

    streams, per_step = _streams(NumpyArrays(), {}, drafter, FEW)

    assert _is_plausible(streams, _expected({}))
    assert per_step > 1.5


def test_more_drafts_are_kept_than_by_comparing_draws() -> None:
    drafter = _Drafter(told=_softmax(DRAFTED))

    _, kept = _streams(NumpyArrays(), {}, drafter, FEW)
    _, compared = _streams(NumpyArrays(), {}, drafter, FEW, is_seeded=True)

    assert kept > 1.15 * compared


def _wrongly_accepted(rule: str) -> Callable[..., Any]:
    """What must be found out: a draft is kept with another probability, or another token is drawn when it is not."""

    def accept_or_draw(xp: ArrayNamespace, logits: Floats, rows: LogitsRows, proposals: Proposals) -> Any:
        weights = _softmax(logits)
        has_draft = proposals.drafted >= 0
        of_target = weights[np.arange(len(rows)), np.maximum(proposals.drafted, 0)]
        ratios = {
            "always": np.ones(len(rows)),
            "upside down": proposals.drafted_probs / of_target,
            "nothing taken away": of_target / np.maximum(proposals.drafted_probs, 1e-9),
        }
        is_kept = has_draft & (rows.uniform("acceptance") < ratios[rule])
        drawn, probabilities = draw(xp, logits, rows.uniform("refusal"))
        return np.where(is_kept, proposals.drafted, drawn), probabilities

    return accept_or_draw


@pytest.mark.parametrize("rule", ["always", "upside down", "nothing taken away"])
def test_wrong_acceptance_is_found_out(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_chain, "accept_or_draw", _wrongly_accepted(rule))

    streams, _ = _streams(NumpyArrays(), {}, _Drafter(told=_softmax(DRAFTED)), FEW)

    assert not _is_plausible(streams, _expected({}))


def test_probabilities_that_are_not_those_of_the_drafts_are_found_out() -> None:
    streams, _ = _streams(NumpyArrays(), {}, _Drafter(told=_softmax(DRAFTED / 3)), FEW)

    assert not _is_plausible(streams, _expected({}))


def test_one_number_for_acceptance_and_draw_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def same(rows: LogitsRows, name: str) -> Floats:
        return uniform(rows.seeds, rows.choices, rows.positions.astype(np.uint32), stream=9)

    monkeypatch.setattr(LogitsRows, "uniform", same)

    streams, _ = _streams(NumpyArrays(), {}, _Drafter(told=_softmax(DRAFTED)), FEW)

    assert not _is_plausible(streams, _expected({}))
