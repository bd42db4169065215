"""Mirostat 2 against a plain rewrite of the paper's algorithm, one row and one token at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from histrio.contracts.backend import ArrayNamespace
from histrio.messages import Ask, Open
from histrio.stage.sampling.sampler_chain import SamplerChain
from histrio_samplers.mirostat import Mirostat
from histrio_samplers.temperature import Temperature
from histrio_samplers.top_p import TopP

VOCAB = 400
NUM_TOKENS = 40
FIELDS: list[dict[str, Any]] = [
    {"mirostat": 2, "mirostat_tau": 3.0, "mirostat_eta": 0.2},
    {"temperature": 0.8},
    {"mirostat": 2, "mirostat_tau": 1.0, "mirostat_eta": 0.5, "temperature": 1.4},
    {"mirostat": 2},
]


def _logits(step: int) -> npt.NDArray[np.float32]:
    return (np.random.default_rng(step).standard_normal((len(FIELDS), VOCAB)) * 2).astype(np.float32)


class _Naive:
    """μ of one sequence."""

    def __init__(self, tau: float = 5.0, eta: float = 0.1) -> None:
        self.tau, self.eta, self.mu = tau, eta, 2 * tau

    def kept(self, logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Probabilities after the truncation."""
        weights = np.exp(logits.astype(np.float64) - logits.max())
        surprise = -np.log2(weights / weights.sum())
        weights[(surprise > self.mu) & (surprise > surprise.min())] = 0
        return np.asarray(weights / weights.sum())

    def saw(self, probability: float) -> None:
        self.mu -= self.eta * (-math.log2(probability) - self.tau)


def _chain(states: dict[int, dict[str, Any]] | None = None, known: list[list[int]] | None = None) -> SamplerChain:
    chain = SamplerChain([Temperature, TopP, Mirostat], max_slots=len(FIELDS))
    for slot, fields in enumerate(FIELDS):
        ids = [1, *(known[slot] if known else [])]
        chain.open(Open(slot, ids, 1, Ask(fields, seed=slot), slot, sampler_state=(states or {}).get(slot, {})))
    return chain


def _run(
    xp: ArrayNamespace, chain: SamplerChain, first: int = 0, inspect: Callable[[int, list[int]], None] | None = None
) -> list[list[int]]:
    streams: list[list[int]] = [[] for _ in FIELDS]
    for step in range(first, NUM_TOKENS):
        slots = np.arange(len(FIELDS))
        ids = chain.sample(xp, xp.asarray(_logits(step)), slots, np.full(len(FIELDS), 1 + step)).ids
        for stream, token in zip(streams, ids, strict=True):
            stream.append(token)
        if inspect is not None:
            inspect(step, ids)
    return streams


def test_mu_and_the_tokens_it_allows_follow_the_paper(xp: ArrayNamespace) -> None:
    naive = {0: _Naive(3.0, 0.2), 2: _Naive(1.0, 0.5), 3: _Naive()}
    chain = _chain()
    num_cut = 0

    def inspect(step: int, ids: list[int]) -> None:
        nonlocal num_cut
        for slot, state in chain.take_states().items():
            kept = naive[slot].kept(_logits(step)[slot] / np.float32(FIELDS[slot].get("temperature", 1.0)))
            num_cut += int((kept == 0).sum())
            assert kept[ids[slot]] > 0
            naive[slot].saw(kept[ids[slot]])
            assert state["mirostat"] == pytest.approx(naive[slot].mu, rel=1e-4)

    _run(xp, chain, inspect=inspect)

    assert num_cut > 1000
    assert naive[0].mu != pytest.approx(6.0, rel=0.05)


def test_the_surprise_comes_to_the_target(xp: ArrayNamespace) -> None:
    chain = SamplerChain([Mirostat], max_slots=1)
    chain.open(Open(0, [1], 1, Ask({"mirostat": 2, "mirostat_tau": 2.5, "mirostat_eta": 0.2}, seed=5), 5))
    surprises, mu = [], 5.0
    row = np.random.default_rng(8).standard_normal((1, VOCAB)).astype(np.float32)
    for step in range(600):
        chain.sample(xp, xp.asarray(row), np.zeros(1, np.intp), np.array([step]))
        after = chain.take_states()[0]["mirostat"]
        surprises.append((mu - after) / 0.2 + 2.5)
        mu = after

    assert np.mean(surprises[100:]) == pytest.approx(2.5, abs=0.1)
    assert np.mean(surprises[:3]) != pytest.approx(2.5, abs=0.1)


@pytest.mark.parametrize("restart_at", [1, 17])
def test_a_replay_with_the_state_goes_on_with_the_same_tokens(xp: ArrayNamespace, restart_at: int) -> None:
    states: dict[int, dict[str, Any]] = {}
    chain = _chain()

    def remember(step: int, ids: list[int]) -> None:
        if step < restart_at:
            states.update(chain.take_states())

    expected = _run(xp, chain, inspect=remember)
    known = [stream[:restart_at] for stream in expected]

    assert set(states) == {0, 2, 3}
    resumed = _run(xp, _chain(states, known), first=restart_at)
    assert resumed == [stream[restart_at:] for stream in expected]
    forgotten = _run(xp, _chain(None, known), first=restart_at)
    assert forgotten[1] == resumed[1]
    assert forgotten[2] != resumed[2]


def test_a_closed_slot_has_no_state(xp: ArrayNamespace) -> None:
    chain = _chain()
    chain.sample(xp, xp.asarray(_logits(0)), np.arange(4), np.ones(4, np.int64))
    chain.close(0)

    assert set(chain.take_states()) == {2, 3}
    assert chain.take_states() == {}
