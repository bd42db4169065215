"""Drafts change no token of any stream, whatever samplers are on; and those that are right are accepted."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from histrio.contracts.backend import ArrayNamespace
from histrio.messages import Ask, Open
from histrio.stage.sampling.sampler_chain import SamplerChain
from histrio_samplers.plugin import SAMPLERS

VOCAB = 24
NUM_TOKENS = 40
FIELDS: list[dict[str, Any]] = [
    {"temperature": 0},
    {},
    {"temperature": 0, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
    {"temperature": 0.7, "top_k": 10, "top_p": 0.9, "min_p": 0.02},
    {"presence_penalty": 1.0, "frequency_penalty": 0.7, "repetition_penalty": 1.2},
    {"dry_multiplier": 1.5, "dry_allowed_length": 1, "temperature": 0.5},
    {"mirostat": 2, "mirostat_tau": 1.5, "mirostat_eta": 0.6},
    {"xtc_probability": 0.5, "xtc_threshold": 0.05},
    {"bad_words_ids": [[1, 2], [3], [4, 5, 6], [0, 0]], "temperature": 0.6},
    {"min_tokens": 12, "logit_bias": {"7": 3.0}},
    {"allowed_token_ids": list(range(3, 20)), "typical_p": 0.8},
    {"top_n_sigma": 1.0, "dry_multiplier": 0.8, "mirostat": 2, "mirostat_tau": 2.0},
]
Drafter = Callable[[int, Sequence[int]], list[int]]


def _row(ids: Sequence[int]) -> npt.NDArray[np.float32]:
    """The model: logits that depend on the last two tokens."""
    rng = np.random.default_rng([*ids[-2:]])
    return (rng.standard_normal(VOCAB) * 2.5).astype(np.float32)


def _chain() -> SamplerChain:
    chain = SamplerChain(SAMPLERS, max_slots=len(FIELDS))
    for slot, fields in enumerate(FIELDS):
        chain.open(Open(slot, [slot, 1, 2], 3, Ask(fields, stop_ids=[7], seed=slot), slot))
    return chain


def _streams(xp: ArrayNamespace, drafter: Drafter) -> tuple[list[list[int]], int]:
    """All sequences until each has enough tokens, and how many steps that took."""
    chain, known = _chain(), [[slot, 1, 2] for slot in range(len(FIELDS))]
    num_steps = 0
    while running := [slot for slot, ids in enumerate(known) if len(ids) < NUM_TOKENS + 3]:
        drafts = {slot: drafted for slot in running if (drafted := drafter(slot, known[slot]))}
        slots, positions, logits = [], [], []
        for slot in running:
            for count in range(len(drafts.get(slot, [])) + 1):
                ids = [*known[slot], *drafts.get(slot, [])[:count]]
                slots.append(slot)
                positions.append(len(ids))
                logits.append(_row(ids))
        sampled = chain.sample(xp, xp.asarray(np.array(logits)), np.array(slots), np.array(positions), drafts)
        gained = iter(sampled.ids)
        for slot, count in zip(running, sampled.num_ids or [1] * len(running), strict=True):
            known[slot].extend(next(gained) for _ in range(count))
        assert next(gained, None) is None
        num_steps += 1
    return [ids[3 : NUM_TOKENS + 3] for ids in known], num_steps


def _half_right(expected: list[list[int]], seed: int) -> Drafter:
    rng = random.Random(seed)

    def drafter(slot: int, ids: Sequence[int]) -> list[int]:
        at, count = len(ids) - 3, rng.choice([0, 1, 2, 5])
        drafted = expected[slot][at : at + count]
        return [token if rng.random() < 0.8 else rng.randrange(VOCAB) for token in drafted]

    return drafter


def test_streams_with_drafts_are_the_streams_without(xp: ArrayNamespace) -> None:
    expected, num_steps = _streams(xp, lambda slot, ids: [])
    assert num_steps == NUM_TOKENS

    for seed in range(3):
        streams, num_steps = _streams(xp, _half_right(expected, seed))
        assert streams == expected
        assert num_steps < 0.9 * NUM_TOKENS


@pytest.mark.parametrize("chunk_rows", [3, 7, 1000])
def test_right_drafts_are_all_accepted(xp: ArrayNamespace, monkeypatch: pytest.MonkeyPatch, chunk_rows: int) -> None:
    expected, _ = _streams(xp, lambda slot, ids: [])
    monkeypatch.setattr(xp, "chunk_values", chunk_rows * VOCAB)

    streams, num_steps = _streams(xp, lambda slot, ids: expected[slot][len(ids) - 3 :][:4])

    assert streams == expected
    assert num_steps == NUM_TOKENS // 5


def test_wrong_drafts_gain_one_token_a_step(xp: ArrayNamespace) -> None:
    expected, _ = _streams(xp, lambda slot, ids: [])

    streams, num_steps = _streams(
        xp, lambda slot, ids: [(token + 1) % VOCAB for token in expected[slot][len(ids) - 3 :][:2]]
    )

    assert streams == expected
    assert num_steps == NUM_TOKENS


@pytest.mark.parametrize("slot", [2, 4, 5, 6, 8])
def test_a_chain_that_overlooks_the_drafts_gives_other_streams(xp: ArrayNamespace, slot: int) -> None:
    """The control: rows behind drafts that are sampled as if nothing stood before them."""
    expected, _ = _streams(xp, lambda slot, ids: [])
    known, chain = [slot, 1, 2], _chain()
    rows = [_row([*known, *expected[slot][:count]]) for count in range(NUM_TOKENS)]
    positions = np.arange(3, 3 + NUM_TOKENS)

    blind = chain.sample(xp, xp.asarray(np.array(rows)), np.full(NUM_TOKENS, slot), positions).ids
    chain = _chain()
    drafts = {slot: expected[slot][:-1]}
    seeing = chain.sample(xp, xp.asarray(np.array(rows)), np.full(NUM_TOKENS, slot), positions, drafts).ids

    assert seeing == expected[slot]
    assert blind != expected[slot]


def test_the_state_counts_accepted_tokens_only(xp: ArrayNamespace) -> None:
    expected, _ = _streams(xp, lambda slot, ids: [])
    slot, known = 6, [6, 1, 2]
    rows = [_row([*known, *expected[slot][:count]]) for count in range(3)]
    alone, drafted = _chain(), _chain()
    for count in range(2):
        alone.sample(xp, xp.asarray(rows[count][None]), np.array([slot]), np.array([3 + count]))
    wrong = (expected[slot][1] + 1) % VOCAB
    logits, positions = xp.asarray(np.array(rows)), np.arange(3, 6)

    sampled = drafted.sample(xp, logits, np.full(3, slot), positions, {slot: [expected[slot][0], wrong]})

    assert (sampled.ids, sampled.num_ids) == (expected[slot][:2], [2])
    assert drafted.take_states()[slot]["mirostat"] == pytest.approx(alone.take_states()[slot]["mirostat"], rel=1e-6)


def test_a_sequence_needs_one_row_more_than_drafts(xp: ArrayNamespace) -> None:
    logits = xp.asarray(np.array([_row([1, 2])] * 2))

    with pytest.raises(AssertionError, match="one row for each of its drafts"):
        _chain().sample(xp, logits, np.zeros(2, np.intp), np.array([3, 4]), {0: [1, 2]})
    assert _chain().sample(xp, logits, np.zeros(2, np.intp), np.array([3, 4]), {0: [1]}).num_ids in ([1], [2])
