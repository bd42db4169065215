"""Tiny models on one, two and three stages of SGLang, in processes of their own over ZeroMQ, equal transformers.

Requests of a batch have different lengths, so that they join and leave at different steps; prompts longer than a chunk
are prefilled beside the decoding of the others. Twice as many requests as rows use slots and pages a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch

from histrio.contracts.gateway import Submission
from histrio.contracts.sampler import Sampler
from histrio.messages import Ask
from histrio.testing.harness import Harness, HarnessOptions, serving_with
from histrio.testing.workers import StageWorkers
from histrio_samplers.temperature import Temperature
from histrio_torch.testing import VOCAB_SIZE, Excuses, Reference, make_model, refer

pytestmark = [pytest.mark.slow_start, pytest.mark.timeout(180)]

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "qwen3_tied": ("qwen3", {}),
    "qwen3_untied": ("qwen3", {"tie_word_embeddings": False, "max_shard_size": "60KB"}),
    "qwen3_moe": ("qwen3_moe", {}),
}
"""The untied one has several weight files, of which a stage reads its own."""
CUTS = [(1, 2), (1,), ()]
"""Three stages first: their processes import SGLang side by side."""
NUM_PROMPTS = 12
NUM_TOKENS = 24
SAMPLERS: list[type[Sampler]] = [Temperature]
OPTIONS = HarnessOptions(
    kv_block_size=16, num_cache_blocks=40, max_batch_size=8, chunked_prefill_size=16, max_sequence_length=64
)


@pytest.fixture(scope="module")
def workers(sglang_python: str) -> Iterator[StageWorkers]:
    with StageWorkers(3, pythons=[sglang_python] * 3) as running:
        yield running


@pytest.fixture(scope="module")
def excuses() -> Iterator[Excuses]:
    counted = Excuses()
    yield counted
    assert counted.num_tokens > 0
    assert counted.share <= 0.001


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, list[Reference]]]:
    """Name → a folder and what transformers says to prompts of 3 to 36 tokens."""
    made: dict[str, tuple[Path, list[Reference]]] = {}

    def get(name: str) -> tuple[Path, list[Reference]]:
        if name not in made:
            family, settings = MODELS[name]
            folder = tmp_path_factory.mktemp(name)
            model = make_model(family, folder, **settings)
            generator = torch.Generator().manual_seed(7)
            lengths = [3 + 3 * row for row in range(NUM_PROMPTS)]
            prompts = [torch.randint(3, VOCAB_SIZE, (length,), generator=generator).tolist() for length in lengths]
            made[name] = folder, [refer(model, ids, NUM_TOKENS) for ids in prompts]
        return made[name]

    return get


async def continuations(workers: StageWorkers, folder: Path, cuts: tuple[int, ...], prompts: list[list[int]]) -> Any:
    """Row r asks for its first 24 - r tokens; the first prompt also runs alone."""
    run_stages = workers.runner("sglang", OPTIONS.batching)
    got: dict[int, list[int]] = {}
    async with serving_with(
        run_stages, folder, samplers=SAMPLERS, cuts=cuts, options=OPTIONS, process="driver"
    ) as harness:

        async def one(row: int) -> None:
            got[row] = await generate(harness, prompts[row], NUM_TOKENS - row)

        async with anyio.create_task_group() as tasks:
            for row in range(len(prompts)):
                tasks.start_soon(one, row)
        alone = await generate(harness, prompts[0], NUM_TOKENS)
    return [got[row] for row in range(len(prompts))], alone


async def generate(harness: Harness, ids: list[int], num_tokens: int) -> list[int]:
    tokens, _state = await harness.run(Submission(ids, num_tokens, Ask({"temperature": 0.0})))
    return tokens


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("cuts", CUTS, ids=lambda cuts: "cut" + "_".join(map(str, cuts)) if cuts else "whole")
def test_batches_on_sglang_equal_single_runs_of_transformers(
    name: str,
    cuts: tuple[int, ...],
    model: Callable[[str], tuple[Path, list[Reference]]],
    workers: StageWorkers,
    excuses: Excuses,
) -> None:
    folder, expected = model(name)
    got, alone = anyio.run(continuations, workers, folder, cuts, [each.ids for each in expected])
    for row, reference in enumerate(expected):
        excuses.compare(got[row], reference.first(NUM_TOKENS - row))
    excuses.compare(alone, expected[0])
    assert got[1] != expected[2].tokens[: len(got[1])], "a control: another prompt gives other tokens"
