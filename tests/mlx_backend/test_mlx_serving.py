"""MLX stages on threads of their own, behind the whole runtime: requests join and leave, and the loop stays free."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest

from histrio.testing.chain import ChainRow
from histrio.testing.harness import HarnessOptions, serving
from histrio_mlx.factory import MlxFactory
from histrio_mlx.testing import MlxChain
from histrio_samplers.temperature import Temperature
from histrio_torch.testing import Excuses

pytestmark = pytest.mark.anyio

NUM_TRIES = 5

LENGTHS = [5, 33, 17, 2, 40, 11, 26, 1, 9, 21]
OPTIONS = HarnessOptions(
    num_cache_blocks=48, max_batch_size=8, max_num_tokens_per_batch=40, chunked_prefill_size=16, max_sequence_length=64
)
"""Fewer blocks than eight full sequences need, so some are preempted."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("family", ["llama", "gemma3", "deepseek_v3"])
async def test_company_and_preemption_change_no_token(family: str, mlx_model: Callable[..., Any]) -> None:
    tiny = mlx_model(family)
    references = [tiny.refer(seed, length, 6 + seed) for seed, length in enumerate(LENGTHS)]
    got: dict[int, list[int]] = {}
    async with serving(tiny.folder, MlxFactory(), cuts=[1, 3], samplers=[Temperature], options=OPTIONS) as harness:

        async def one(index: int) -> None:
            got[index] = await harness.generate(references[index].ids, len(references[index].tokens))

        async with anyio.create_task_group() as tasks:
            for index in range(len(references)):
                tasks.start_soon(one, index)

    excuses = Excuses()
    for index, reference in enumerate(references):
        excuses.compare(got[index], reference)
    assert got[0] != got[1][: len(got[0])], "a control: other prompts get other tokens"


@pytest.mark.alone
async def test_the_loop_stays_free_while_mlx_computes(mlx_model: Callable[..., Any]) -> None:
    tiny = mlx_model("llama", num_hidden_layers=8, hidden_size=256, intermediate_size=512, num_attention_heads=16)
    loop = asyncio.get_running_loop()
    tries: list[tuple[float, float]] = []
    with ThreadPoolExecutor(1) as thread:
        # The system, too, may stop a loop; a step that holds the lock does so each time.
        while len(tries) < NUM_TRIES and not any(gap_s < 0.3 * step_s for gap_s, step_s in tries):
            chain = await loop.run_in_executor(thread, _open, tiny.folder)
            threaded = asyncio.ensure_future(loop.run_in_executor(thread, _step_s, chain))
            tries.append((await _worst_gap_s(threaded), await threaded))
            await loop.run_in_executor(thread, chain.close)

    chain = _open(tiny.folder)
    watched = asyncio.ensure_future(anyio.sleep(0.2))
    watch = asyncio.ensure_future(_worst_gap_s(watched))
    await anyio.sleep(0.05)
    blocked_s = _step_s(chain)
    assert await watch > 0.9 * blocked_s, "a control: a step on the loop itself stops it"
    chain.close()
    assert any(gap_s < 0.3 * step_s for gap_s, step_s in tries), f"worst gaps and steps, in seconds: {tries}"


def _open(folder: Path) -> MlxChain:
    return MlxChain(folder, max_sequence_length=512, max_num_tokens_per_batch=512, num_cache_blocks=40)


def _step_s(chain: MlxChain) -> float:
    begin = time.perf_counter()
    chain.step([ChainRow(0, [3 + index % 150 for index in range(400)])])
    return time.perf_counter() - begin


async def _worst_gap_s(until: asyncio.Future[Any]) -> float:
    """The longest that the loop did nothing else."""
    worst, last = 0.0, time.perf_counter()
    while not until.done():
        await anyio.sleep(0.001)
        worst, last = max(worst, time.perf_counter() - last), time.perf_counter()
    return worst
