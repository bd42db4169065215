"""An engine backend served in one process: deltas with logprobs, cancellation, seeds, and an engine that breaks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import anyio
import msgspec
import pytest

from histrio.contracts.gateway import Delta, Gateway, Submission
from histrio.contracts.honours import Honours
from histrio.errors import RequestError
from histrio.messages import Ask, Generate, RequestState
from histrio.testing.harness import HarnessOptions, serving_engine
from histrio.testing.toy import toy_continuation, write_toy_model
from histrio.testing.toy_engine import ToyEngine, ToyEngineFactory
from histrio.testing.wait import eventually_async

pytestmark = pytest.mark.anyio

NUM_LAYERS, VOCAB = 4, 258
GREEDY = {"temperature": 0.0}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_toy_model(tmp_path / "toy", num_layers=NUM_LAYERS)


def reference(ids: list[int], num_tokens: int) -> list[int]:
    return toy_continuation(ids, num_tokens, num_layers=NUM_LAYERS, vocab_size=VOCAB)


async def deltas_of(gateway: Gateway, submission: Submission) -> list[Delta]:
    (stream,) = gateway.submit(submission)
    return [delta async for delta in stream]


class _SeededFields(msgspec.Struct, frozen=True):
    temperature: float = 1.0
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**32)] = 0


class SeededFactory(ToyEngineFactory):
    """An engine that says it draws from the request's seed; keeps what it is told to run."""

    fields: type[msgspec.Struct] = _SeededFields
    honours = Honours(seed=True)

    def __init__(self) -> None:
        self.commands: list[Generate] = []

    def create(self) -> ToyEngine:
        return _NotingEngine(self.commands.append)


class _NotingEngine(ToyEngine):
    def __init__(self, note: Callable[[Generate], None]) -> None:
        super().__init__()
        self._note = note

    def submit(self, command: Generate) -> None:
        self._note(command)
        super().submit(command)


async def test_many_requests_give_what_the_plain_computation_gives(model: Path) -> None:
    got: dict[int, list[int]] = {}
    async with serving_engine(model, ToyEngineFactory()) as harness:

        async def one(i: int) -> None:
            got[i] = await harness.generate([i, 7, 9], 5 + i)

        async with anyio.create_task_group() as tasks:
            for i in range(24):
                tasks.start_soon(one, i)
        counters = harness.front.gateway.status.counters
        await eventually_async(lambda: counters.get("generated_tokens_total") == sum(5 + i for i in range(24)))
        await eventually_async(lambda: harness.front.gateway.status.gauges["running_sequences"] == 0)
    assert got == {i: reference([i, 7, 9], 5 + i) for i in range(24)}
    assert got[0] != reference([1, 7, 9], 5), "a control: another prompt gives other tokens"


async def test_logprobs_come_with_their_tokens_where_they_are_asked_for(model: Path) -> None:
    async with serving_engine(model, ToyEngineFactory()) as harness:
        asked = await deltas_of(harness.gateway, Submission([1, 2], 9, Ask({**GREEDY, "logprobs": True})))
        plain = await deltas_of(harness.gateway, Submission([1, 2], 9, Ask(GREEDY)))
    assert [len(delta.extras.logprobs) for delta in asked] == [len(delta.ids) for delta in asked]
    assert sum(len(delta.ids) for delta in asked) == 9
    assert all(each.logprob < 0 for delta in asked for each in delta.extras.logprobs)
    assert all(delta.extras.logprobs == [] for delta in plain)


async def test_logprobs_that_pile_up_between_reads_stay_in_order(model: Path) -> None:
    async with serving_engine(model, ToyEngineFactory()) as harness:
        submission = Submission([1, 2], 9, Ask({**GREEDY, "logprobs": True}))
        one_by_one = [each for delta in await deltas_of(harness.gateway, submission) for each in delta.extras.logprobs]
        (stream,) = harness.gateway.submit(submission)
        await eventually_async(lambda: harness.front.gateway.num_unfinished == 0)
        piled = await anext(stream)
    assert piled.extras.logprobs == one_by_one
    assert len({each.logprob for each in piled.extras.logprobs}) > 1, "a control: their order shows"


async def test_a_cancelled_stream_leaves_the_engine(model: Path) -> None:
    slow = HarnessOptions(stage_options={"step-s": 0.005})
    async with serving_engine(model, ToyEngineFactory(), options=slow) as harness:
        (stream,) = harness.gateway.submit(Submission([1, 2, 3], 400, Ask(GREEDY)))
        await anext(aiter(stream))
        stream.cancel()
        assert harness.front.gateway.num_unfinished == 0
        assert await harness.generate([1], 3) == reference([1], 3)
        await eventually_async(lambda: harness.front.gateway.status.gauges["running_sequences"] == 0)


async def test_an_engine_that_breaks_is_made_anew_and_greedy_streams_go_on(model: Path) -> None:
    breaking = HarnessOptions(stage_options={"fail-at-step": 12, "step-s": 0.01})
    async with serving_engine(model, ToyEngineFactory(), options=breaking) as harness:
        asked = [Submission([4, 5], 20, Ask({"temperature": temperature})) for temperature in (0.0, 1.0)]
        streams = [harness.gateway.submit(submission)[0] for submission in asked]
        greedy, drawn = [[delta async for delta in stream] for stream in streams]
        assert harness.front.gateway.status.epoch == 2
    assert [token for delta in greedy for token in delta.ids] == reference([4, 5], 20)
    assert greedy[-1].state is RequestState.FINISHED_MAX_LENGTH
    assert drawn[-1].state is RequestState.ERROR
    assert 0 < sum(len(delta.ids) for delta in drawn) < 20


@pytest.mark.parametrize("fields", [{"top_k": 3}, {"temperature": 5.0}, {"logprobs": 2}])
async def test_fields_it_does_not_honour_are_refused(model: Path, fields: dict[str, Any]) -> None:
    async with serving_engine(model, ToyEngineFactory()) as harness:
        with pytest.raises(RequestError) as caught:
            harness.gateway.check_sampling(fields)
        harness.gateway.check_sampling(GREEDY)
    assert caught.value.param in fields


async def test_a_seed_is_refused_where_it_would_be_ignored_and_passed_on_where_not(model: Path) -> None:
    async with serving_engine(model, ToyEngineFactory()) as harness:
        with pytest.raises(RequestError, match="the backend 'toy-engine' does not honour this field") as caught:
            harness.gateway.submit(Submission([1], 2, Ask(seed=7)))
        assert caught.value.param == "seed"
        assert harness.front.gateway.num_unfinished == 0

    factory = SeededFactory()
    async with serving_engine(model, factory) as harness:
        for stream in harness.gateway.submit(Submission([1], 2, Ask(seed=7), num_choices=2)):
            assert [delta.ids async for delta in stream]
        with pytest.raises(RequestError, match="seed must be an integer at least 0 and below"):
            harness.gateway.submit(Submission([1], 2, Ask(seed=2**40)))
    assert [(command.seed, command.choice) for command in factory.commands] == [(7, 0), (7, 1)]
