"""What holds for all samplers of the distribution alike: no row knows of another, and replays go on the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from histrio.contracts.backend import ArrayNamespace
from histrio.contracts.request_fields import FieldTable
from histrio.contracts.sampler import LogitsRows, Opening, Sampler
from histrio.messages import Ask, Open
from histrio.stage.sampling.sampler_chain import NOT_NUMBERS, SamplerChain
from histrio_samplers.plugin import SAMPLERS

VOCAB = 60
PROMPT = np.random.default_rng(6).integers(0, 30, 50).tolist()
FIELDS: dict[str, dict[str, Any]] = {
    "allowed_token_ids": {"allowed_token_ids": list(range(0, VOCAB, 3))},
    "bad_words": {"bad_words_ids": [[token] for token in range(40)]},
    "min_tokens": {"min_tokens": 1000},
    "logit_bias": {"logit_bias": {"3": 50.0}},
    "repetition_penalty": {"repetition_penalty": 2.5},
    "occurrence_penalties": {"presence_penalty": 2.0, "frequency_penalty": 1.0},
    "dry": {"dry_multiplier": 5.0, "dry_allowed_length": 1},
    "temperature": {"temperature": 0.3},
    "top_n_sigma": {"top_n_sigma": 1.5},
    "top_k": {"top_k": 20},
    "top_p": {"top_p": 0.7},
    "min_p": {"min_p": 0.1},
    "typical_p": {"typical_p": 0.5},
    "xtc": {"xtc_probability": 0.7, "xtc_threshold": 0.01},
    "mirostat": {"mirostat": 2, "mirostat_tau": 3.0},
}
KINDS = {kind.name: kind for kind in SAMPLERS}
ALL = {name: value for fields in FIELDS.values() for name, value in fields.items()}


def _logits(rows: int, seed: int = 2) -> npt.NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal((rows, VOCAB)) * 2.5).astype(np.float32)


def _chain(fields: list[dict[str, Any]], known: list[list[int]] | None = None, states: Any = None) -> SamplerChain:
    chain = SamplerChain(SAMPLERS, max_slots=len(fields))
    for slot, own in enumerate(fields):
        ids = [*PROMPT, *(known[slot] if known else [])]
        state = (states or {}).get(slot)
        chain.open(
            Open(slot, ids, len(PROMPT) - 20, Ask(own, stop_ids=[5, 6], seed=slot), slot, sampler_state=state or {})
        )
    return chain


def _streams(
    xp: ArrayNamespace, chain: SamplerChain, slots: list[int], first: int = 0, last: int = 25
) -> list[list[int]]:
    streams: list[list[int]] = [[] for _ in slots]
    for step in range(first, last):
        logits, positions = _logits(40, seed=step)[slots], np.full(len(slots), len(PROMPT) + step)
        for stream, token in zip(
            streams, chain.sample(xp, xp.asarray(logits), np.array(slots), positions).ids, strict=True
        ):
            stream.append(token)
    return streams


def test_every_sampler_is_tested_here() -> None:
    assert list(FIELDS) == [kind.name for kind in SAMPLERS]
    assert set(FieldTable(SAMPLERS).known_fields) >= ALL.keys()


def test_they_run_in_the_order_in_which_they_are_listed() -> None:
    numbers = [kind.order for kind in SAMPLERS]

    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("name", FIELDS)
def test_a_row_is_the_same_alone_and_in_a_batch_with_all_samplers_on(xp: ArrayNamespace, name: str) -> None:
    fields = [FIELDS[name], *([ALL, {}, {"temperature": 0}, FIELDS["top_p"], ALL | {"temperature": 0}] * 2)]
    together = _streams(xp, _chain(fields), list(range(len(fields))))

    alone = _streams(xp, _chain(fields), [0])

    assert alone[0] == together[0]
    assert alone[0] != _streams(xp, _chain([{}]), [0])[0]


@pytest.mark.parametrize("name", FIELDS)
def test_a_row_that_does_not_want_it_stays_as_it_is(xp: ArrayNamespace, name: str) -> None:
    kind: type[Sampler] = KINDS[name]
    sampler, table, logits = kind(max_slots=4), FieldTable(SAMPLERS), _logits(4)
    logits[:, 9] = -np.inf
    wants = []
    for slot, fields in enumerate([{}, FIELDS[name], {}, FIELDS[name]]):
        wants.append(sampler.open(slot, table.params(kind, fields), Opening(PROMPT, len(PROMPT) - 20, [5])))
    rows = LogitsRows(np.arange(4), np.full(4, len(PROMPT)), np.arange(4, dtype=np.uint64), np.zeros(4, np.uint32))

    shaped = xp.to_host(sampler.apply(xp, xp.asarray(logits.copy()), rows))

    assert wants == [False, True, False, True]
    assert np.array_equal(shaped[[0, 2]], logits[[0, 2]])
    assert not np.array_equal(shaped[1], logits[1]) or not np.array_equal(shaped[3], logits[3])


@pytest.mark.parametrize("name", FIELDS)
def test_a_slot_forgets_the_sequence_before(xp: ArrayNamespace, name: str) -> None:
    chain = _chain([FIELDS[name]])
    _streams(xp, chain, [0], last=5)
    chain.close(0)
    chain.open(Open(0, PROMPT, len(PROMPT), Ask(seed=0), 0))

    assert _streams(xp, chain, [0]) == _streams(xp, _chain([{}]), [0])


def test_a_replay_goes_on_with_the_same_tokens_for_every_sampler(xp: ArrayNamespace) -> None:
    fields = [*FIELDS.values(), ALL, ALL | {"temperature": 0}, {}]
    slots, chain = list(range(len(fields))), _chain(fields)
    before = _streams(xp, chain, slots, last=10)
    states = chain.take_states()
    after = _streams(xp, chain, slots, first=10)

    assert _streams(xp, _chain(fields, before, states), slots, first=10) == after
    shuffled = [stream[::-1] for stream in before[1:]] + before[:1]
    assert _streams(xp, _chain(fields, shuffled), slots, first=10) != after


def test_all_of_them_draw_the_same_on_every_kind_of_array(xp: ArrayNamespace) -> None:
    from histrio.stage.sampling.numpy_arrays import NumpyArrays

    fields = [*FIELDS.values(), ALL, ALL | {"temperature": 0}, {}]
    slots = list(range(len(fields)))
    expected = _streams(NumpyArrays(), _chain(fields), slots)

    assert _streams(xp, _chain(fields), slots) == expected
    assert _streams(xp, _chain(fields[::-1]), slots) != expected


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_a_row_left_without_any_token_is_told_and_hurts_no_other(xp: ArrayNamespace, temperature: float) -> None:
    nothing: dict[str, Any] = {"allowed_token_ids": [5], "min_tokens": 100, "temperature": temperature}
    fields: list[dict[str, Any]] = [
        nothing,
        {"temperature": temperature},
        nothing | {"top_p": 0.5, "mirostat": 2, "top_n_sigma": 1.0, "xtc_probability": 1.0, "typical_p": 0.5},
    ]
    with np.errstate(invalid="ignore"):
        ids = [stream[0] for stream in _streams(xp, _chain(fields), [0, 1, 2], last=1)]

    assert (ids[0], ids[2]) == (-1, -1)
    assert [ids[1]] == _streams(xp, _chain(fields), [1], last=1)[0]
    assert ids[1] >= 0


def test_a_model_without_numbers_is_no_fault_of_the_samplers(xp: ArrayNamespace) -> None:
    logits = _logits(1)
    logits[0, 42] = np.nan

    with np.errstate(invalid="ignore"):
        broken = _chain([ALL]).sample(xp, xp.asarray(logits), np.zeros(1, np.intp), np.array([60]))
    assert broken.ids == [NOT_NUMBERS]
    (token,) = _chain([ALL]).sample(xp, xp.asarray(_logits(1)), np.zeros(1, np.intp), np.array([60])).ids
    assert token >= 0, "a control"


@pytest.mark.parametrize("fields", [{"temperature": 0}, {"temperature": 0, "logit_bias": {"3": 1.0}}, {}])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_an_argmax_over_what_is_no_number_is_no_token(
    xp: ArrayNamespace, fields: dict[str, Any], number: float
) -> None:
    logits = _logits(3)
    logits[1] = number
    with np.errstate(invalid="ignore"):
        ids = _chain([fields] * 3).sample(xp, xp.asarray(logits), np.arange(3), np.array([60, 61, 62])).ids
    assert [token >= 0 for token in ids] == [True, False, True]
    assert ids[1] == NOT_NUMBERS
