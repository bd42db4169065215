"""Drafted tokens from the draft model's logits: the target's own draw where it can be repeated, else another draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from histrio.messages import Ask, Generate, Open
from histrio.stage.sampling.numpy_arrays import NumpyArrays
from histrio.stage.sampling.sampler_chain import SamplerChain
from histrio_samplers.plugin import SAMPLERS
from histrio_speculative.token_chooser import MOST_DRAFT_PROBS, TokenChooser

ROWS, VOCAB = 6, 90
SLOTS = list(range(ROWS))
POSITIONS = [40 + slot for slot in SLOTS]


def make_chooser(sampling: dict[str, Any], *, is_seeded: bool) -> TokenChooser:
    chooser = TokenChooser(SamplerChain(list(SAMPLERS), ROWS), NumpyArrays(), ROWS)
    for slot in SLOTS:
        chooser.open(slot, command(slot, sampling, is_seeded=is_seeded))
    return chooser


def command(slot: int, sampling: dict[str, Any], *, is_seeded: bool) -> Generate:
    seed = slot * 7 + 1
    return Generate(slot + 1, [1, 2, 3], 3, 100, Ask(sampling, seed=seed if is_seeded else None), seed)


def make_logits(seed: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 2, (ROWS, VOCAB)).astype(np.float32)


def drawn_by_target(sampling: dict[str, Any], logits: npt.NDArray[np.float32], shift: int = 0) -> list[int]:
    chain = SamplerChain(list(SAMPLERS), ROWS)
    for slot in SLOTS:
        chain.open(Open(slot, [1, 2, 3], 3, Ask(sampling, seed=slot * 7 + 1), slot * 7 + 1))
    positions = np.array(POSITIONS) + shift
    return chain.sample(NumpyArrays(), logits, np.array(SLOTS, np.intp), positions).ids


SEEDED: list[dict[str, Any]] = [{}, {"temperature": 0.7}, {"temperature": 1.3, "top_k": 9, "top_p": 0.8, "min_p": 0.02}]


@pytest.mark.parametrize("sampling", SEEDED)
def test_models_that_agree_draw_the_same_for_a_seeded_request(sampling: dict[str, Any]) -> None:
    logits = make_logits(3)
    chosen = make_chooser(sampling, is_seeded=True).choose(logits, SLOTS, POSITIONS)
    assert [each.token for each in chosen] == drawn_by_target(sampling, logits)
    assert [each.token for each in chosen] != drawn_by_target(sampling, logits, shift=1), "a control"
    assert all(each.draft_probs is None for each in chosen)


def test_a_greedy_request_gets_the_most_likely_token_whatever_its_penalties() -> None:
    logits = make_logits(4)
    chooser = make_chooser({"temperature": 0.0, "repetition_penalty": 1.5}, is_seeded=False)
    assert [each.token for each in chooser.choose(logits, SLOTS, POSITIONS)] == logits.argmax(axis=1).tolist()


def test_rows_of_all_kinds_share_a_step() -> None:
    logits = make_logits(5)
    chooser = make_chooser({"temperature": 0.0}, is_seeded=False)
    chooser.open(2, command(2, {"temperature": 0.9}, is_seeded=False))
    chooser.open(4, command(4, {"temperature": 0.9}, is_seeded=True))
    chosen = chooser.choose(logits, SLOTS, POSITIONS)
    best = logits.argmax(axis=1).tolist()
    assert [chosen[slot].token for slot in (0, 1, 3, 5)] == [best[slot] for slot in (0, 1, 3, 5)]
    assert [each.draft_probs is not None for each in chosen] == [False, False, True, False, False, False]
    assert chosen[4].token == drawn_by_target({"temperature": 0.9}, logits)[4]


FREE: list[dict[str, Any]] = [
    {},
    {"temperature": 0.5},
    {"top_k": 4},
    {"top_p": 0.6},
    {"min_p": 0.2},
    {"temperature": 0.9, "top_k": 10, "top_p": 0.9, "min_p": 0.05},
]


@pytest.mark.parametrize("sampling", FREE)
def test_draft_probs_are_a_distribution_over_tokens_that_the_request_allows(sampling: dict[str, Any]) -> None:
    logits = make_logits(6)
    ranked = (-logits).argsort(axis=1)
    for slot, each in enumerate(make_chooser(sampling, is_seeded=False).choose(logits, SLOTS, POSITIONS)):
        assert each.draft_probs is not None
        tokens = [token for token, _ in each.draft_probs]
        assert each.token in tokens
        assert sum(chance for _, chance in each.draft_probs) == pytest.approx(1)
        assert tokens == ranked[slot, : len(tokens)].tolist(), "the most likely ones"
        assert len(tokens) <= min(MOST_DRAFT_PROBS, sampling.get("top_k", MOST_DRAFT_PROBS))
        draft_probs = [chance for _, chance in each.draft_probs]
        assert draft_probs == pytest.approx(plainly(logits[slot], **sampling))


def test_a_hot_request_is_drawn_for_with_its_own_number_whether_seeded_or_not() -> None:
    logits = make_logits(8)
    chosen = make_chooser({"temperature": 1.6}, is_seeded=False).choose(logits, SLOTS, POSITIONS)
    assert [each.token for each in chosen] == drawn_by_target({"temperature": 1.6}, logits)
    assert all(each.draft_probs is None for each in chosen)


def plainly(
    logits: npt.NDArray[Any],
    temperature: float = 1.0,
    top_k: int = MOST_DRAFT_PROBS,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> list[float]:
    """One row's probabilities, token by token."""
    kept = sorted(logits.astype(np.float64) / (0.8 * temperature), reverse=True)[:top_k]
    weights = [weight for weight in np.exp(np.array(kept[:MOST_DRAFT_PROBS]) - kept[0]).tolist() if weight >= min_p]
    nucleus = [weight for at, weight in enumerate(weights) if sum(weights[:at]) < top_p * sum(weights)]
    return [weight / sum(nucleus) for weight in nucleus]


def test_tokens_come_as_often_as_their_probabilities_say() -> None:
    logits = np.repeat(make_logits(7)[:1], ROWS, axis=0)
    chooser = make_chooser({"temperature": 1.0}, is_seeded=False)
    chosen = [each for _ in range(2000) for each in chooser.choose(logits, SLOTS, POSITIONS)]
    counts = np.bincount([each.token for each in chosen], minlength=VOCAB)
    assert chosen[0].draft_probs is not None
    expected = np.zeros(VOCAB)
    for token, chance in chosen[0].draft_probs:
        expected[token] = chance * len(chosen)
    assert chi_squared(counts, expected) < 75, "31 degrees of freedom: 1 in 10,000 is above 68"
    assert chi_squared(counts, np.roll(expected, 1)) > 1000, "a control"


def chi_squared(counts: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    if counts[expected == 0].any():
        return float("inf")
    kept = expected > 0
    return float(((counts[kept] - expected[kept]) ** 2 / expected[kept]).sum())
