"""Vectors of prompts through all actors: the toy backend, computed plainly, is the judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio
import numpy as np
import numpy.typing as npt
import pytest

from histrio.contracts.backend import ArrayNamespace, Capability, OpenedStage, Progress, StageSpec
from histrio.contracts.gateway import Submission
from histrio.errors import RequestError
from histrio.messages import Ask, Extras, Open, Pooling, RequestState, Row
from histrio.stage.sampling.numpy_arrays import NumpyArrays
from histrio.stage.sampling.pooler import Pooler
from histrio.testing.harness import Harness, HarnessOptions, serving
from histrio.testing.toy import ToyFactory, ToyStage, toy_continuation, toy_states, write_toy_model
from histrio.testing.wait import eventually_async

NUM_LAYERS, VOCAB = 3, 258
LONG = [(11 * index + 5) % 250 for index in range(150)]
"""Computed in several chunks."""
MOST_ERROR = 1e-6
Vector = npt.NDArray[np.float32]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_toy_model(tmp_path / "toy", num_layers=NUM_LAYERS)


def expected(ids: list[int], pooling: Pooling) -> Vector:
    states = toy_states(ids, num_layers=NUM_LAYERS)
    found: dict[Pooling, Vector] = {"mean": states.mean(axis=0), "last": states[-1], "cls": states[0]}
    return found[pooling]


async def pooled(harness: Harness, ids: list[int], pooling: Pooling) -> tuple[Vector, Extras]:
    """The vector, and all that came with it."""
    (stream,) = harness.gateway.submit(Submission(ids, 0, Ask({"temperature": 0.0}, pooling=pooling)))
    deltas = [delta async for delta in stream]
    assert [(delta.ids, delta.state) for delta in deltas] == [([], RequestState.FINISHED_MAX_LENGTH)]
    return np.frombuffer(deltas[0].extras.pooled, "<f4"), deltas[0].extras


async def check(harness: Harness, ids: list[int]) -> None:
    for pooling in ("mean", "last", "cls"):
        found, _ = await pooled(harness, ids, pooling)
        assert found == pytest.approx(expected(ids, pooling), abs=MOST_ERROR)
        if len(ids) > 2:
            assert found != pytest.approx(expected(ids[1:], pooling), abs=0.01), "a control: one token less"


@pytest.mark.anyio
@pytest.mark.parametrize("cuts", [[], [1], [1, 2]])
@pytest.mark.parametrize("num_micro_batches", [1, 3])
async def test_a_vector_is_of_all_the_prompt_whatever_the_split(
    model: Path, cuts: Sequence[int], num_micro_batches: int
) -> None:
    options = HarnessOptions(num_micro_batches=num_micro_batches)
    async with serving(model, ToyFactory(), samplers=[], cuts=cuts, options=options) as harness:
        for ids in ([7], [7, 8], LONG[:32], LONG[:33], LONG):
            await check(harness, ids)


@pytest.mark.anyio
async def test_a_known_prefix_spares_the_last_token_only(model: Path) -> None:
    """A mean needs every token, so none is taken from the cache; what it computes serves others from there."""
    async with serving(model, ToyFactory(), samplers=[]) as harness:
        assert (await pooled(harness, LONG, "mean"))[1].num_cached_tokens == 0
        assert (await pooled(harness, LONG, "mean"))[1].num_cached_tokens == 0
        assert (await pooled(harness, LONG, "last"))[1].num_cached_tokens == len(LONG) // 4 * 4
        await check(harness, LONG)


async def crowd(harness: Harness) -> None:
    """Vectors, and answers of tokens, side by side."""

    async def one(nth: int) -> None:
        ids = LONG[nth * 9 :]
        if nth % 3:
            await check(harness, ids)
            return
        expected_ids = toy_continuation(ids, 30, num_layers=NUM_LAYERS, vocab_size=VOCAB)
        assert await harness.generate(ids, 30) == expected_ids

    async with anyio.create_task_group() as tasks:
        for nth in range(9):
            tasks.start_soon(one, nth)


@pytest.mark.anyio
@pytest.mark.parametrize("trouble", ["none", "async scheduling", "preemption", "a lost replica"])
async def test_trouble_changes_no_vector(model: Path, trouble: str) -> None:
    is_lost = trouble == "a lost replica"
    options = HarnessOptions(
        num_cache_blocks=90 if trouble == "preemption" else 600,
        num_ahead=int(trouble == "async scheduling"),
        stage_options={"fail-at-step": 9, "fail-times": 2} if is_lost else {},
    )
    cuts = [] if trouble == "async scheduling" else [1]
    async with serving(model, ToyFactory(), samplers=[], cuts=cuts, options=options) as harness:
        await crowd(harness)
        status = harness.gateway.status
        await eventually_async(lambda: status.gauges.get("running_sequences") == 0)
    assert (status.epoch > 1) == is_lost
    assert (status.counters["preemptions_total"] > 0) == (trouble == "preemption")


def test_a_slot_that_is_opened_again_begins_anew() -> None:
    pooler, xp = Pooler(), NumpyArrays()
    states = np.arange(8, dtype=np.float32).reshape(4, 2)
    for _ in range(2):
        pooler.open(Open(0, [1, 2, 3], 3, Ask(pooling="mean")))
        assert pooler.pool(xp, states[:2], [Row(0, 0, 2, 0, num_pooled=2)]) == {}
    found = pooler.pool(xp, states[2:3], [Row(0, 2, 1, 0, num_pooled=1)])
    assert np.frombuffer(found[0].pooled, "<f4") == pytest.approx(states[:3].mean(axis=0))


def test_what_is_no_number_is_no_vector() -> None:
    pooler = Pooler()
    xp: ArrayNamespace = NumpyArrays()
    pooler.open(Open(0, [1, 2], 2, Ask(pooling="mean")))
    pooler.pool(xp, np.full((1, 2), np.inf, np.float32), [Row(0, 0, 1, 0, num_pooled=1)])
    found = pooler.pool(xp, np.zeros((1, 2), np.float32), [Row(0, 1, 1, 0, num_pooled=1)])
    assert found[0].code == "plugin_failed"
    assert not found[0].pooled


class _LogitsStage(ToyStage):
    def __init__(self, spec: StageSpec, progress: Progress) -> None:
        super().__init__(spec, progress)
        self.capacity.capabilities.remove(Capability.HIDDEN_STATES)


class _LogitsFactory(ToyFactory):
    def open(self, spec: StageSpec, progress: Progress) -> OpenedStage:
        return _LogitsStage(spec, progress)


@pytest.mark.anyio
async def test_a_replica_without_hidden_states_refuses_by_its_backends_name(model: Path) -> None:
    async with serving(model, _LogitsFactory(), samplers=[]) as harness:
        assert not harness.gateway.model.honours.pooling
        with pytest.raises(RequestError, match="the backend 'toy' gives no hidden states") as caught:
            await pooled(harness, [1, 2, 3], "mean")
        assert (caught.value.param, caught.value.status) == ("model", 400)
        assert harness.gateway.status.num_unfinished == 0
        assert len(await harness.generate([1, 2, 3], 3)) == 3
