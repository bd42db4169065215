"""Drafting with a model, with the toy as the model: what it computes ahead is what the toy says, whatever came true."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histrio.contracts.backend import Capability, OpenedStage, Progress, StageOutput, StageSpec, StepBatch
from histrio.contracts.drafter import DrafterSpec, DrafterTools
from histrio.errors import BackendError, DoesNotFit
from histrio.messages import Ask, Generate
from histrio.stage.sampling.sampler_chain import SamplerChain
from histrio.testing.toy import ToyFactory, ToyStage, toy_continuation, write_toy_model
from histrio_samplers.plugin import SAMPLERS
from histrio_speculative.model_drafter import _MOST_BEHIND, ModelDrafter
from histrio_speculative.placement import _FEW_BYTES, PlacementOptions, bring_up
from histrio_speculative.reservations import _IDLE_ROUNDS

NUM_LAYERS, VOCAB = 2, 258
NUM_THREADS = 7
"""Of the first stage."""
GREEDY = {"temperature": 0.0}


class CountingToy(ToyStage):
    """Remembers the tokens of its steps."""

    def __init__(self, spec: StageSpec, progress: Progress) -> None:
        super().__init__(spec, progress)
        self.spec = spec
        self.steps: list[list[int]] = []

    def step(self, batch: StepBatch) -> StageOutput:
        self.steps.append(batch.num_tokens.tolist())
        return super().step(batch)


class Noted(ToyFactory):
    """Keeps the stage that it opened last."""

    def __init__(self, kind: type[ToyStage] = CountingToy) -> None:
        super().__init__()
        self._kind = kind

    def open(self, spec: StageSpec, progress: Progress) -> OpenedStage:
        self.stage: Any = self._kind(spec, progress)
        return self.stage


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_model(tmp_path_factory.mktemp("toys") / "toy", num_layers=NUM_LAYERS)


@pytest.fixture
def factory() -> Noted:
    return Noted()


@pytest.fixture
def drafter(model: Path, factory: Noted) -> ModelDrafter:
    return make_drafter(model, factory)


@pytest.fixture
def backend(factory: Noted, drafter: ModelDrafter) -> CountingToy:
    return factory.stage  # type: ignore[no-any-return]


def make_drafter(
    model: Path,
    factory: Noted,
    *,
    num_cache_tokens: int | None = None,
    target_vocab: int = VOCAB,
    draft_vocab: int = VOCAB,
    threads: int | None = None,
) -> ModelDrafter:
    spec = DrafterSpec(
        model=str(model),
        num_layers=4,
        vocab_size=target_vocab,
        max_batch_size=6,
        max_sequence_length=1024,
        max_draft=8,
        threads=NUM_THREADS,
    )
    tools = DrafterTools(lambda _name: factory, lambda max_slots: SamplerChain(list(SAMPLERS), max_slots))
    options = PlacementOptions(num_cache_tokens=num_cache_tokens, threads=threads)
    return bring_up(str(model), NUM_LAYERS, draft_vocab, options, spec, tools)


def open_sequence(drafter: ModelDrafter, request: int, ids: list[int], end_ids: list[int] | None = None) -> None:
    drafter.open(Generate(request, ids, len(ids), 1000, Ask(GREEDY, eos_ids=end_ids or [])), ids)


def said_by_toy(ids: list[int], num_tokens: int) -> list[int]:
    return toy_continuation(ids, num_tokens, num_layers=NUM_LAYERS, vocab_size=VOCAB)


def proposed(drafter: ModelDrafter, expected: dict[int, int]) -> dict[int, list[int]]:
    drafts = drafter.propose(expected)
    drafter.reservations.check_integrity()
    assert not any(draft.draft_probs for draft in drafts.values()), "greedy drafts are simply the most likely tokens"
    return {request: draft.ids for request, draft in drafts.items()}


def test_it_proposes_what_the_model_says(drafter: ModelDrafter) -> None:
    texts = {1: [5, 6, 7], 2: [9] * 20, 3: [1]}
    for request, ids in texts.items():
        open_sequence(drafter, request, ids)
    assert proposed(drafter, {1: 3, 2: 5, 3: 1}) == {
        1: said_by_toy(texts[1], 3),
        2: said_by_toy(texts[2], 5),
        3: said_by_toy(texts[3], 1),
    }


def test_whatever_came_true_it_goes_on_from_there(drafter: ModelDrafter) -> None:
    rng = random.Random(1)
    texts = {request: [rng.randrange(250) for _ in range(request * 3)] for request in range(1, 6)}
    for request, ids in texts.items():
        open_sequence(drafter, request, list(ids))
    for _ in range(40):
        asked = rng.sample(sorted(texts), rng.randint(1, 5))
        expected = {request: rng.randint(1, 6) for request in asked}
        drafts = proposed(drafter, expected)
        for request, count in expected.items():
            assert drafts[request] == said_by_toy(texts[request], count)
        for request in rng.sample(sorted(texts), 4):
            known = drafts.get(request, [])
            came = [*known[: rng.randint(0, len(known))], rng.randrange(250)][: rng.randint(1, 7)]
            texts[request] += came
            drafter.extend(request, came)


def test_tokens_that_came_true_are_not_computed_again(drafter: ModelDrafter, backend: CountingToy) -> None:
    open_sequence(drafter, 1, [5, 6, 7])
    (draft,) = proposed(drafter, {1: 4}).values()
    assert backend.steps == [[3], [1], [1], [1]]
    drafter.extend(1, [*draft[:2], 99])
    backend.steps.clear()
    proposed(drafter, {1: 1})
    assert backend.steps == [[1]], "both drafts stay, the token behind them is new"
    drafter.extend(1, [98, 97])
    backend.steps.clear()
    proposed(drafter, {1: 1})
    assert backend.steps == [[2]], "a control: nothing came true"


def test_sequences_that_want_no_more_leave_the_round(drafter: ModelDrafter, backend: CountingToy) -> None:
    for request in (1, 2, 3):
        open_sequence(drafter, request, [request])
    proposed(drafter, {1: 1, 2: 4, 3: 2})
    assert backend.steps == [[1, 1, 1], [1, 1], [1], [1]]


def test_a_draft_stops_at_the_end_of_the_text(drafter: ModelDrafter) -> None:
    expected = said_by_toy([3, 4], 6)
    open_sequence(drafter, 1, [3, 4], end_ids=[expected[2]])
    assert expected[2] not in expected[:2]
    assert proposed(drafter, {1: 6}) == {1: expected[:3]}


def test_a_sequence_far_behind_catches_up_first(drafter: ModelDrafter, backend: CountingToy) -> None:
    long = [token % 250 for token in range(700)]
    open_sequence(drafter, 1, [1, 2])
    open_sequence(drafter, 2, list(long))
    assert proposed(drafter, {1: 2, 2: 2}) == {1: said_by_toy([1, 2], 2)}
    assert backend.steps == [[2, 510], [1]], "one step of many tokens, and the nearest sequence comes first"
    assert proposed(drafter, {2: 2}) == {}
    assert proposed(drafter, {2: 2}) == {2: said_by_toy(long, 2)}


def test_a_sequence_a_little_behind_is_drafted_for_at_once(drafter: ModelDrafter) -> None:
    open_sequence(drafter, 1, [1] * _MOST_BEHIND)
    assert proposed(drafter, {1: 1}) == {1: said_by_toy([1] * _MOST_BEHIND, 1)}
    open_sequence(drafter, 2, [1] * (_MOST_BEHIND + 1))
    assert proposed(drafter, {2: 1}) == {}, "a control"


def test_where_blocks_are_short_some_are_drafted_for(model: Path, factory: Noted) -> None:
    drafter = make_drafter(model, factory, num_cache_tokens=64)
    for request in range(1, 5):
        open_sequence(drafter, request, [request] * 20)
    expected = dict.fromkeys(range(1, 5), 3)
    assert list(proposed(drafter, expected)) == [1, 2]
    assert list(proposed(drafter, expected)) == [1, 2], "they keep their slots"
    for _ in range(_IDLE_ROUNDS + 1):
        proposed(drafter, {1: 3})
    drafts = proposed(drafter, {3: 3})
    assert drafts == {3: said_by_toy([3] * 20, 3)}, "in the blocks of the second"
    drafter.close(3)
    assert proposed(drafter, {2: 3}) == {2: said_by_toy([2] * 20, 3)}, "it begins anew"


def test_a_sequence_longer_than_the_pool_is_left_out(model: Path, factory: Noted) -> None:
    drafter = make_drafter(model, factory, num_cache_tokens=32)
    open_sequence(drafter, 1, [1] * 30)
    assert proposed(drafter, {1: 3}) == {1: said_by_toy([1] * 30, 3)}
    assert proposed(drafter, {1: 4}) == {}
    assert not [tokens for tokens in factory.stage.steps if sum(tokens) > 30]


def test_tokens_that_only_one_model_knows_are_never_exchanged(model: Path, factory: Noted) -> None:
    drafter = make_drafter(model, factory, draft_vocab=200)
    open_sequence(drafter, 1, [1, 201])
    open_sequence(drafter, 2, [1, 2])
    assert list(proposed(drafter, {1: 2, 2: 2})) == [2]
    drafter.extend(2, [200])
    assert proposed(drafter, {2: 2}) == {}

    expected = said_by_toy([1, 2], 8)
    most = max(expected[1:])
    assert most > expected[0]
    narrow = make_drafter(model, Noted(), target_vocab=most)
    open_sequence(narrow, 1, [1, 2])
    assert proposed(narrow, {1: 8}) == {1: expected[: expected.index(most)]}


def test_a_failing_model_is_a_backend_error(drafter: ModelDrafter, monkeypatch: pytest.MonkeyPatch) -> None:
    open_sequence(drafter, 1, [1])
    assert proposed(drafter, {1: 1})

    def fail(_stage: ToyStage, _batch: StepBatch) -> StageOutput:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(ToyStage, "step", fail)
    with pytest.raises(BackendError, match="the draft model failed: the device is gone"):
        drafter.propose({1: 1})


def test_the_memory_is_freed_once(drafter: ModelDrafter, backend: CountingToy) -> None:
    open_sequence(drafter, 1, [1])
    assert backend._blocks.size > 0
    drafter.shutdown()
    drafter.shutdown()
    assert backend._blocks.size == 0


def lacking(capability: Capability) -> Noted:
    class Poorer(ToyStage):
        def __init__(self, spec: StageSpec, progress: Progress) -> None:
            super().__init__(spec, progress)
            self.capacity.capabilities.remove(capability)

    return Noted(Poorer)


@pytest.mark.parametrize(
    ("capability", "reason"), [(Capability.BATCH, "one sequence at a time"), (Capability.REWIND, "cannot take back")]
)
def test_a_backend_that_cannot_draft_is_refused(model: Path, capability: Capability, reason: str) -> None:
    with pytest.raises(BackendError, match=reason):
        make_drafter(model, lacking(capability))


def test_a_pool_that_does_not_fit_is_refused_with_the_numbers(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("histrio.testing.toy.memory_bytes", lambda: 16_000 * 10)
    assert make_drafter(model, Noted(), num_cache_tokens=900)
    with pytest.raises(DoesNotFit, match=r"num-cache-tokens asks for 2000 tokens, and 992 fit"):
        make_drafter(model, Noted(), num_cache_tokens=2000)


def test_the_positions_of_its_rows_follow_its_tokens(drafter: ModelDrafter, backend: CountingToy) -> None:
    seen: list[tuple[list[int], list[int]]] = []
    plain = backend.step

    def watch(batch: StepBatch) -> StageOutput:
        assert batch.token_ids is not None
        assert (batch.num_sampled <= 1).all()
        seen.append((batch.positions.tolist(), batch.token_ids.tolist()))
        return plain(batch)

    backend.step = watch  # type: ignore[method-assign]
    open_sequence(drafter, 1, [5, 6])
    (draft,) = proposed(drafter, {1: 3}).values()
    assert seen == [([0, 1], [5, 6]), ([2], draft[:1]), ([3], draft[1:2])]
    assert np.unique(draft).size > 1, "a control: the toy says different tokens"


def test_a_very_small_model_computes_on_one_thread(tmp_path: Path) -> None:
    def threads_of(folder: Path, threads: int | None = None) -> int | None:
        factory = Noted()
        make_drafter(folder, factory, threads=threads)
        spec: StageSpec = factory.stage.spec
        return spec.threads

    folder = write_toy_model(tmp_path / "toy", num_layers=NUM_LAYERS)
    assert threads_of(folder) == 1
    assert threads_of(folder, threads=3) == 3
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(_FEW_BYTES)
    assert threads_of(folder) == NUM_THREADS, "a control: as many as the first stage"
    assert threads_of(folder, threads=3) == 3
