"""The whole line of a request in one process, with the toy backend as judge."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from histrio.actors.refs import Ref
from histrio.contracts.gateway import Submission
from histrio.messages import Ask, Close, RequestState
from histrio.testing.harness import HarnessOptions, serving
from histrio.testing.toy import ToyFactory, toy_continuation, write_toy_model
from histrio.testing.wait import eventually_async
from histrio_samplers.temperature import Temperature

pytestmark = pytest.mark.anyio

NUM_LAYERS, VOCAB = 4, 258


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_toy_model(tmp_path / "toy", num_layers=NUM_LAYERS)


def reference(ids: list[int], num_tokens: int) -> list[int]:
    return toy_continuation(ids, num_tokens, num_layers=NUM_LAYERS, vocab_size=VOCAB)


@pytest.mark.parametrize("cuts", [[], [1], [2], [1, 3]])
async def test_tokens_equal_the_plain_computation_for_every_cut(model: Path, cuts: list[int]) -> None:
    prompt = [5, 9, 200, 3]
    async with serving(model, ToyFactory(), cuts=cuts, samplers=[Temperature]) as harness:
        tokens = await harness.generate(prompt, 24)
    assert tokens == reference(prompt, 24)
    assert tokens != reference([5, 9, 200, 4], 24), "a control: another prompt gives other tokens"


async def test_many_requests_join_and_leave_without_touching_each_other(model: Path) -> None:
    prompts = [[i, 2 * i % 256, 7] * (1 + i % 9) for i in range(48)]
    expected = [reference(prompt, 5 + i % 20) for i, prompt in enumerate(prompts)]
    got: dict[int, list[int]] = {}

    async with serving(model, ToyFactory(), cuts=[2], samplers=[Temperature]) as harness:

        async def one(i: int) -> None:
            got[i] = await harness.generate(prompts[i], 5 + i % 20)

        async with anyio.create_task_group() as tasks:
            for i in range(len(prompts)):
                tasks.start_soon(one, i)
    assert [got[i] for i in range(len(prompts))] == expected


async def test_too_few_blocks_preempt_and_still_give_the_same_tokens(model: Path) -> None:
    options = HarnessOptions(num_cache_blocks=24, max_sequence_length=96)
    prompts = [[i, 3, 7, 1] for i in range(8)]
    got: dict[int, list[int]] = {}
    async with serving(model, ToyFactory(), samplers=[Temperature], options=options) as harness:

        async def one(i: int) -> None:
            got[i] = await harness.generate(prompts[i], 40)

        async with anyio.create_task_group() as tasks:
            for i in range(len(prompts)):
                tasks.start_soon(one, i)
        await eventually_async(lambda: harness.front.gateway.status.gauges.get("running_sequences") == 0)
        assert harness.front.gateway.status.counters["preemptions_total"] > 0, "the test must make blocks short"
    assert [got[i] for i in range(8)] == [reference(prompt, 40) for prompt in prompts]


async def test_a_failing_device_is_restarted_and_streams_go_on(model: Path) -> None:
    options = HarnessOptions(stage_options={"fail-at-step": 10})
    async with serving(model, ToyFactory(), samplers=[Temperature], options=options) as harness:
        tokens, state = await harness.run(Submission([4, 5, 6], 9, Ask({"temperature": 0.0})))
        assert harness.front.gateway.status.epoch == 1
        more = await harness.generate([7, 8, 9], 8)
        assert harness.front.gateway.status.epoch == 2
        assert harness.front.gateway.status.num_replays == 1
        counters = harness.front.gateway.status.counters
        await eventually_async(lambda: harness.front.gateway.status.gauges["running_sequences"] == 0)
        assert counters["generated_tokens_total"] == len(tokens) + len(more), "a restart counts nothing twice"
    assert state is RequestState.FINISHED_MAX_LENGTH
    assert tokens == reference([4, 5, 6], 9)
    assert more == reference([7, 8, 9], 8)


async def test_a_cancelled_stream_frees_its_blocks(model: Path) -> None:
    async with serving(model, ToyFactory(), samplers=[Temperature]) as harness:
        (stream,) = harness.gateway.submit(Submission([1, 2, 3], 400, Ask({"temperature": 0.0})))
        await stream.__anext__()
        stream.cancel()
        assert harness.front.gateway.num_unfinished == 0
        assert await harness.generate([1], 3) == reference([1], 3)
        await eventually_async(lambda: harness.front.gateway.status.gauges.get("used_blocks") == 0)


async def test_a_failing_actor_is_replaced_and_streams_go_on(model: Path) -> None:
    slow = HarnessOptions(stage_options={"step-s": 0.005})
    async with serving(model, ToyFactory(), samplers=[Temperature], options=slow) as harness:
        (stream,) = harness.gateway.submit(Submission([9, 8, 7], 30, Ask({"temperature": 0.0})))
        tokens = (await stream.__anext__()).ids
        harness.front.directory.tell(Ref("kv"), Close(0))  # kv does not understand this
        async for delta in stream:
            tokens = tokens + delta.ids
        await eventually_async(lambda: harness.front.gateway.status.epoch == 2)
    assert tokens == reference([9, 8, 7], 30)


async def test_no_request_is_longer_than_all_blocks_together(model: Path) -> None:
    options = HarnessOptions(num_cache_blocks=5, kv_block_size=4)
    async with serving(model, ToyFactory(), samplers=[Temperature], options=options) as harness:
        assert harness.gateway.model.max_sequence_length == 20
        assert await harness.generate([1, 2], 18) == reference([1, 2], 18)
        _tokens, state = await harness.run(Submission([1, 2], 19, Ask({"temperature": 0.0})))
    assert state is RequestState.ERROR, "a control: one token more does not fit"


async def test_a_request_past_its_time_limit_ends_with_an_error(model: Path) -> None:
    slow = HarnessOptions(stage_options={"step-s": 0.02})
    async with serving(model, ToyFactory(), samplers=[Temperature], options=slow) as harness:
        tokens, state = await harness.run(Submission([1], 400, Ask({"temperature": 0.0}), timeout_s=0.2))
        assert state is RequestState.ERROR
        assert len(tokens) < 400
        await eventually_async(lambda: harness.front.gateway.status.gauges.get("running_sequences") == 0)
