"""The prefix cache through all actors, with the toy backend: fewer tokens are computed, and no token changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from histrio.contracts.gateway import Submission
from histrio.messages import Ask
from histrio.testing.harness import Harness, HarnessOptions, serving
from histrio.testing.toy import ToyFactory, toy_continuation, write_toy_model
from histrio.testing.wait import eventually_async
from histrio_samplers.temperature import Temperature

NUM_LAYERS, VOCAB = 4, 258
PREFIX = [(7 * index + 3) % 250 for index in range(64)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_toy_model(tmp_path / "toy", num_layers=NUM_LAYERS)


async def run(harness: Harness, ids: list[int], num_tokens: int = 8, **fields: Any) -> tuple[list[int], int]:
    """Greedy tokens, and how many of the prompt came from the cache."""
    submission = Submission(ids, num_tokens, Ask({"temperature": 0.0}, **fields))
    (stream,) = harness.gateway.submit(submission)
    tokens: list[int] = []
    num_cached = 0
    async for delta in stream:
        tokens += delta.ids
        num_cached += delta.extras.num_cached_tokens
    return tokens, num_cached


async def scheduled(harness: Harness) -> float:
    """Tokens computed so far, once everything is told."""
    status = harness.gateway.status
    await eventually_async(lambda: not status.num_unfinished and not status.gauges.get("running_sequences"))
    return status.counters["scheduled_tokens_total"]


@pytest.mark.anyio
@pytest.mark.parametrize("cuts", [[], [1, 3]])
async def test_a_known_prefix_is_not_computed_again_and_changes_nothing(model: Path, cuts: Sequence[int]) -> None:
    async with serving(model, ToyFactory(), samplers=[Temperature], cuts=cuts) as harness:
        cold, num_cold = await run(harness, [*PREFIX, 1, 2])
        warm, num_warm = await run(harness, [*PREFIX, 1, 2])
        other, num_other = await run(harness, [*PREFIX, 9, 9, 9])
        strange, num_strange = await run(harness, [5, *PREFIX])
    assert (num_cold, num_warm, num_other, num_strange) == (0, 64, 64, 0)
    assert warm == cold == toy_continuation([*PREFIX, 1, 2], 8, num_layers=NUM_LAYERS, vocab_size=VOCAB)
    assert other == toy_continuation([*PREFIX, 9, 9, 9], 8, num_layers=NUM_LAYERS, vocab_size=VOCAB)
    assert strange == toy_continuation([5, *PREFIX], 8, num_layers=NUM_LAYERS, vocab_size=VOCAB)


@pytest.mark.anyio
async def test_a_conversation_goes_on_from_its_own_answer(model: Path) -> None:
    async with serving(model, ToyFactory(), samplers=[Temperature]) as harness:
        answer, _ = await run(harness, PREFIX, num_tokens=20)
        _, num_cached = await run(harness, [*PREFIX, *answer, 5, 6, 7])
    assert num_cached == 80, "83 tokens are known, in 20 full blocks of 4"


@pytest.mark.anyio
async def test_a_burst_computes_the_common_prefix_once(model: Path) -> None:
    async def cost(*, prefix_cache: bool) -> float:
        options = HarnessOptions(prefix_cache=prefix_cache, num_cache_blocks=512)
        async with serving(model, ToyFactory(), samplers=[Temperature], options=options) as harness:
            async with anyio.create_task_group() as tasks:
                for index in range(16):
                    tasks.start_soon(run, harness, [*PREFIX, index, 1], 1)
            return await scheduled(harness)

    assert await cost(prefix_cache=True) == 64 + 16 * 2
    assert await cost(prefix_cache=False) == 16 * 66


@pytest.mark.anyio
async def test_salts_and_resets_keep_requests_apart(model: Path) -> None:
    async with serving(model, ToyFactory(), samplers=[Temperature]) as harness:
        await run(harness, [*PREFIX, 1], cache_salt="mine")
        _, num_yours = await run(harness, [*PREFIX, 1], cache_salt="yours")
        _, num_mine = await run(harness, [*PREFIX, 1], cache_salt="mine")
        harness.gateway.reset_cache()
        _, num_after = await run(harness, [*PREFIX, 1], cache_salt="mine")
    assert (num_yours, num_mine, num_after) == (0, 64, 0)


@pytest.mark.anyio
@pytest.mark.parametrize("num_micro_batches", [1, 2, 4])
async def test_few_blocks_many_micro_batches_and_shared_prefixes_change_nothing(
    model: Path, num_micro_batches: int
) -> None:
    options = HarnessOptions(num_cache_blocks=60, num_micro_batches=num_micro_batches, chunked_prefill_size=5)
    prompts = [[*PREFIX[: 8 + 4 * (index % 5)], index % 3, 7] for index in range(24)]
    got: dict[int, list[int]] = {}
    async with serving(model, ToyFactory(), samplers=[Temperature], cuts=[2], options=options) as harness:

        async def one(index: int) -> None:
            got[index], _ = await run(harness, prompts[index], 24 + index % 7)

        async with anyio.create_task_group() as tasks:
            for index in range(len(prompts)):
                tasks.start_soon(one, index)
        await scheduled(harness)
        assert harness.gateway.status.counters["preemptions_total"] > 0
    for index, prompt in enumerate(prompts):
        expected = toy_continuation(prompt, 24 + index % 7, num_layers=NUM_LAYERS, vocab_size=VOCAB)
        assert got[index] == expected
