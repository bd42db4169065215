"""Every family, whole or cut into two stages, in processes of their own over ZeroMQ, equals transformers.

The stages open and close in two long-lived workers. Requests of a batch have different lengths, so that they join and
leave at different steps, and prompts longer than a chunk are prefilled beside the decoding of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from histrio.contracts.gateway import Submission
from histrio.contracts.sampler import Sampler
from histrio.messages import Ask
from histrio.testing.harness import Harness, HarnessOptions, serving_with
from histrio.testing.workers import StageWorkers
from histrio_samplers.temperature import Temperature
from histrio_torch.testing import FAMILIES, NUM_LAYERS, Excuses, Reference

pytestmark = [pytest.mark.slow_start, pytest.mark.timeout(120)]

CUTS = [(), *((cut,) for cut in range(1, NUM_LAYERS))]
FIRST, *OTHERS = FAMILIES
ALWAYS = ("mistral", "gemma3", "deepseek_v3")
"""Windows, two kinds of layers, latent attention with experts."""
PAIRS = [pytest.param(FIRST, cuts) for cuts in CUTS]
PAIRS += [
    pytest.param(family, CUTS[1 + number % (NUM_LAYERS - 1)], marks=[] if family in ALWAYS else pytest.mark.thorough)
    for number, family in enumerate(OTHERS)
]
"""One family at every cut, each other one at some cut; within one process `test_torch_families.py` tries them all."""
SAMPLERS: list[type[Sampler]] = [Temperature]
OPTIONS = HarnessOptions(
    kv_block_size=16, num_cache_blocks=64, max_batch_size=8, chunked_prefill_size=16, max_sequence_length=64
)
NUM_ROWS = 8


@pytest.fixture(scope="module")
def workers() -> Iterator[StageWorkers]:
    with StageWorkers(2) as running:
        yield running


@pytest.fixture(scope="module")
def excuses() -> Iterator[Excuses]:
    counted = Excuses()
    yield counted
    assert counted.num_tokens > 0
    assert counted.share <= 0.001


def references(tiny: Any) -> list[Reference]:
    """Prompts of 3 to 31 tokens, each with its 32 tokens by transformers; made once per model."""
    if not hasattr(tiny, "batch"):
        tiny.batch = [tiny.refer(seed=10 + row, num_prompt_tokens=3 + 4 * row) for row in range(NUM_ROWS)]
    return list(tiny.batch)


async def continuations(workers: StageWorkers, folder: str, cuts: tuple[int, ...], prompts: list[list[int]]) -> Any:
    """Row r asks for its first 32 - 2r tokens, so that rows leave one after the other; row 0 also runs alone."""
    run_stages = workers.runner("torch", OPTIONS.batching)
    got: dict[int, list[int]] = {}
    async with serving_with(
        run_stages, Path(folder), samplers=SAMPLERS, cuts=cuts, options=OPTIONS, process="driver"
    ) as harness:

        async def one(row: int) -> None:
            got[row] = await generate(harness, prompts[row], 32 - 2 * row)

        async with anyio.create_task_group() as tasks:
            for row in range(len(prompts)):
                tasks.start_soon(one, row)
        alone = await generate(harness, prompts[0], 32)
    return [got[row] for row in range(len(prompts))], alone


async def generate(harness: Harness, ids: list[int], num_tokens: int) -> list[int]:
    tokens, _state = await harness.run(Submission(ids, num_tokens, Ask({"temperature": 0.0})))
    return tokens


@pytest.mark.parametrize(
    ("family", "cuts"), PAIRS, ids=lambda each: each if isinstance(each, str) else f"cut{each[0]}" if each else "whole"
)
def test_batches_in_processes_equal_single_runs_of_transformers(
    family: str, cuts: tuple[int, ...], tiny_model: Callable[[str], Any], workers: StageWorkers, excuses: Excuses
) -> None:
    tiny = tiny_model(family)
    expected = references(tiny)
    got, alone = anyio.run(continuations, workers, tiny.folder, cuts, [each.ids for each in expected])
    for row, reference in enumerate(expected):
        excuses.compare(got[row], reference.first(32 - 2 * row))
    excuses.compare(alone, expected[0])
    assert got[1] != expected[2].tokens[: len(got[1])], "a control: another prompt gives other tokens"
