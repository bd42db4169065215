"""A draw depends on its own row only, and follows the distribution."""

from __future__ import annotations

import random
from typing import Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from histrio.contracts.backend import Array, ArrayNamespace
from histrio.contracts.sampler import LogitsRows, Opening, Sampler
from histrio.errors import RequestError
from histrio.messages import Ask, Open
from histrio.stage.sampling.numpy_arrays import NumpyArrays
from histrio.stage.sampling.sampler_chain import NOT_NUMBERS, SamplerChain
from histrio_samplers.temperature import Temperature
from histrio_samplers.top_k import TopK
from histrio_samplers.top_p import TopP

SAMPLERS: list[type[Sampler]] = [TopP, TopK, Temperature]
VOCAB = 3_001
KINDS: list[dict[str, Any]] = [
    {"temperature": 0},
    {},
    {"temperature": 0.6},
    {"top_k": 20},
    {"top_k": 2000, "temperature": 1.5},
    {"top_p": 0.9},
    {"top_p": 0.999, "temperature": 2.0},
    {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
]


def _chain(fields: list[dict[str, Any]], seeds: list[int] | None = None) -> SamplerChain:
    chain = SamplerChain(SAMPLERS, max_slots=len(fields))
    for slot, row in enumerate(fields):
        chain.open(
            Open(slot, [], 0, Ask(row, seed=seeds[slot] if seeds else slot), seeds[slot] if seeds else slot, slot % 2)
        )
    return chain


def _logits(rows: int, vocab: int = VOCAB) -> npt.NDArray[np.float32]:
    return (np.random.default_rng(9).standard_normal((rows, vocab)) * 2).astype(np.float32)


def test_greedy_rows_are_argmax(xp: ArrayNamespace) -> None:
    logits = _logits(4)
    chain = _chain([{"temperature": 0}, {"temperature": 0.0, "top_k": 3}, {"temperature": 0}, {"temperature": 0}])

    ids = chain.sample(xp, xp.asarray(logits), np.arange(4), np.arange(4)).ids

    assert ids == logits.argmax(axis=1).tolist()
    assert ids != chain.sample(xp, xp.asarray(-logits), np.arange(4), np.arange(4)).ids
    assert all(type(token) is int for token in ids)


def test_a_draw_is_the_same_alone_embedded_and_permuted(xp: ArrayNamespace) -> None:
    fields = KINDS * 3
    logits, slots, positions = _logits(len(fields)), np.arange(len(fields)), np.arange(100, 100 + len(fields))
    chain = _chain(fields)
    together = chain.sample(xp, xp.asarray(logits), slots, positions).ids

    alone = [chain.sample(xp, xp.asarray(logits[r : r + 1]), slots[[r]], positions[[r]]).ids[0] for r in slots]
    permutation = np.array(random.Random(1).sample(range(len(fields)), len(fields)))
    permuted = chain.sample(xp, xp.asarray(logits[permutation]), slots[permutation], positions[permutation]).ids
    some = np.array([7, 1, 12])

    assert alone == together
    assert permuted == [together[r] for r in permutation]
    assert chain.sample(xp, xp.asarray(logits[some]), slots[some], positions[some]).ids == [together[r] for r in some]
    assert chain.sample(xp, xp.asarray(logits), slots, positions + 1).ids != together


def test_chunks_of_a_large_batch_do_not_change_a_draw(xp: ArrayNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = KINDS * 3
    logits, slots = xp.asarray(_logits(len(fields))), np.arange(len(fields))
    whole = _chain(fields).sample(xp, logits, slots, slots).ids

    monkeypatch.setattr(xp, "chunk_values", 2 * VOCAB)

    assert _chain(fields).sample(xp, logits, slots, slots).ids == whole
    assert _chain(fields, seeds=[99] * len(fields)).sample(xp, logits, slots, slots).ids != whole


def test_numpy_and_torch_draw_the_same(xp: ArrayNamespace) -> None:
    fields = KINDS * 8
    logits, slots = _logits(len(fields)), np.arange(len(fields))
    reference = _chain(fields).sample(NumpyArrays(), logits, slots, slots).ids

    assert _chain(fields).sample(xp, xp.asarray(logits), slots, slots).ids == reference
    assert _chain(fields).sample(xp, xp.asarray(logits), slots, slots + 1).ids != reference


def test_several_positions_of_one_sequence_draw_apart(xp: ArrayNamespace) -> None:
    logits, chain = np.repeat(_logits(1), 40, axis=0), _chain([{}])

    ids = chain.sample(xp, xp.asarray(logits), np.zeros(40, np.intp), np.arange(40)).ids

    assert len(set(ids)) > 20
    assert chain.sample(xp, xp.asarray(logits[:1]), np.zeros(1, np.intp), np.array([17])).ids[0] == ids[17]


def test_seed_and_choice_decide_the_stream(xp: ArrayNamespace) -> None:
    logits, slots = xp.asarray(np.repeat(_logits(1), 30, axis=0)), np.zeros(30, np.intp)
    streams = []
    for seed, choice in [(5, 0), (5, 0), (6, 0), (5, 1), (5 + 2**64, 0), (-1, 0), (2**64 - 1, 0)]:
        chain = SamplerChain(SAMPLERS, max_slots=1)
        chain.open(Open(0, [], 0, Ask(seed=seed), seed, choice))
        streams.append(chain.sample(xp, logits, slots, np.arange(30)).ids)

    assert streams[0] == streams[1] == streams[4]
    assert streams[5] == streams[6]
    assert len({tuple(stream) for stream in streams}) == 4


def _chi_squared(counts: npt.NDArray[np.int64], expected: npt.NDArray[np.float64]) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.7}, {"top_k": 12}, {"top_p": 0.8, "temperature": 1.3}])
def test_draws_follow_the_softmax(xp: ArrayNamespace, fields: dict[str, Any]) -> None:
    count, vocab = 20_000, 32
    row = np.random.default_rng(3).standard_normal(vocab).astype(np.float32)
    chain = _chain([fields])

    ids = chain.sample(xp, xp.asarray(np.repeat(row[None], count, 0)), np.zeros(count, np.intp), np.arange(count)).ids

    counts = np.bincount(ids, minlength=vocab)
    kept, expected = _expected(row, fields)
    assert counts[~kept].sum() == 0
    limit = kept.sum() - 1 + 6 * np.sqrt(2 * kept.sum())  # degrees of freedom and six deviations
    assert _chi_squared(counts[kept], count * expected[kept]) < limit
    swapped = np.roll(expected[kept], 1)
    assert _chi_squared(counts[kept], count * swapped) > limit


def _expected(row: npt.NDArray[np.float32], fields: dict[str, Any]) -> tuple[npt.NDArray[np.bool_], Any]:
    """Which tokens stay, and their probabilities, computed naively."""
    weights = np.exp(row.astype(np.float64) / fields.get("temperature", 1))
    ranks = np.argsort(-weights)
    ranked = weights[ranks] / weights.sum()
    rank_kept = (np.cumsum(ranked) - ranked < fields.get("top_p", 1)) & (np.arange(len(row)) < fields.get("top_k", 99))
    kept = np.zeros(len(row), np.bool_)
    kept[ranks[rank_kept]] = True
    return kept, np.where(kept, weights, 0) / weights[kept].sum()


def test_half_precision_logits_sample_as_their_float32_values() -> None:
    torch = pytest.importorskip("torch")
    from histrio_torch.arrays import TorchArrays

    xp, fields = TorchArrays("cpu"), KINDS * 2
    half, slots = torch.tensor(_logits(len(fields))).bfloat16(), np.arange(len(fields))

    ids = _chain(fields).sample(xp, half, slots, slots).ids

    assert ids == _chain(fields).sample(xp, half.float(), slots, slots).ids
    assert ids != _chain(fields).sample(xp, torch.roll(half, 1, dims=-1), slots, slots).ids


def test_logits_without_a_distribution_give_no_token_to_their_row(xp: ArrayNamespace) -> None:
    good = _logits(2)
    nan, empty = good.copy(), good.copy()
    nan[1, 5], empty[1] = np.nan, -np.inf
    chain, slots = _chain([{}, {"top_k": 5}]), np.arange(2)

    with np.errstate(invalid="ignore"):
        broken = [chain.sample(xp, xp.asarray(logits), slots, slots).ids for logits in (nan, empty, good)]
    assert [ids[1] >= 0 for ids in broken] == [False, False, True]
    assert {ids[1] for ids in broken[:2]} == {NOT_NUMBERS}
    assert len({ids[0] for ids in broken}) == 1, "the other row's token is what it is"


def test_a_closed_slot_cannot_be_sampled(xp: ArrayNamespace) -> None:
    chain = _chain([{}, {}])
    chain.close(1)

    with pytest.raises(AssertionError, match="closed"):
        chain.sample(xp, xp.asarray(_logits(1)), np.array([1]), np.array([0]))
    assert len(chain.sample(xp, xp.asarray(_logits(1)), np.array([0]), np.array([0])).ids) == 1


def test_a_slot_forgets_the_fields_of_the_sequence_before(xp: ArrayNamespace) -> None:
    chain, logits, slot = _chain([{"top_k": 1}]), xp.asarray(_logits(1)), np.zeros(1, np.intp)
    limited = {chain.sample(xp, logits, slot, np.array([position])).ids[0] for position in range(20)}
    chain.close(0)
    chain.open(Open(0, [], 0, Ask(seed=0), 0))

    free = {chain.sample(xp, logits, slot, np.array([position])).ids[0] for position in range(20)}

    assert len(limited) == 1
    assert len(free) > 5


def test_an_unknown_field_is_not_ignored_when_a_slot_opens() -> None:
    chain = SamplerChain([TopK], max_slots=1)

    with pytest.raises(RequestError):
        chain.open(Open(0, [], 0, Ask({"top_p": 0.5}, seed=0), 0))
    chain.open(Open(0, [], 0, Ask({"temperature": 0, "top_k": 3}, seed=0), 0))
    assert chain.fields.known_fields == ["top_k"]


class _ForbidParams(msgspec.Struct, frozen=True):
    forbid: int = -1


class _Forbid:
    """A bias, so it acts on greedy rows as well."""

    name: ClassVar[str] = "forbid"
    order: ClassVar[int] = 10
    params: ClassVar[type[msgspec.Struct]] = _ForbidParams

    def __init__(self, max_slots: int) -> None:
        self._forbidden = np.full(max_slots, -1)

    def open(self, slot: int, params: msgspec.Struct, opening: Opening) -> bool:
        assert isinstance(params, _ForbidParams)
        self._forbidden[slot] = params.forbid
        return params.forbid >= 0

    def apply(self, xp: ArrayNamespace, logits: Array, rows: LogitsRows) -> Array:
        forbidden = xp.asarray(self._forbidden[rows.slots][:, None])
        return xp.where(xp.arange(logits.shape[-1]) == forbidden, -np.inf, logits)


def test_biases_act_on_greedy_rows_too(xp: ArrayNamespace) -> None:
    logits = _logits(2)
    best, second = np.argsort(-logits[0])[:2].tolist()
    chain = SamplerChain([*SAMPLERS, _Forbid], max_slots=2)
    chain.open(Open(0, [], 0, Ask({"temperature": 0, "forbid": best}, seed=0), 0))
    chain.open(Open(1, [], 0, Ask({"temperature": 0}, seed=0), 0))

    ids = chain.sample(xp, xp.asarray(logits), np.arange(2), np.arange(2)).ids

    assert ids == [second, int(logits[1].argmax())]


def test_a_sampler_hears_of_sequences_that_ask_for_it_and_of_the_next_one_in_the_slot(
    xp: ArrayNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = _logits(1)
    best, second = np.argsort(-logits[0])[:2].tolist()
    opened: list[int] = []
    open_plainly = _Forbid.open

    def noted(self: _Forbid, slot: int, params: msgspec.Struct, opening: Opening) -> bool:
        assert isinstance(params, _ForbidParams)
        opened.append(params.forbid)
        return open_plainly(self, slot, params, opening)

    monkeypatch.setattr(_Forbid, "open", noted)
    chain = SamplerChain([*SAMPLERS, _Forbid], max_slots=1)
    drawn = []
    for fields in ({}, {}, {"forbid": best}, {}, {}):
        chain.open(Open(0, [], 0, Ask({"temperature": 0, **fields}, seed=0), 0))
        drawn += chain.sample(xp, xp.asarray(logits), np.zeros(1, np.intp), np.zeros(1, np.intp)).ids
        chain.close(0)

    assert drawn == [best, best, second, best, best]
    assert opened == [-1, best, -1]  # the first sequence of a slot is told to all
