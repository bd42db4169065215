"""Stages of different backends behind each other, in processes of their own, say what transformers says.

torch and MLX always; SGLang where `HISTRIO_SGLANG_PYTHON` names the interpreter of its environment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch

from histrio.contracts.gateway import Submission
from histrio.contracts.sampler import Sampler
from histrio.messages import Ask
from histrio.testing.harness import HarnessOptions, serving_with
from histrio.testing.workers import StageWorkers
from histrio_samplers.temperature import Temperature
from histrio_torch.testing import NUM_LAYERS, VOCAB_SIZE, Excuses, Reference, make_model, refer

pytest.importorskip("mlx.core")

pytestmark = [pytest.mark.slow_start, pytest.mark.timeout(180)]

SGLANG = os.environ.get("HISTRIO_SGLANG_PYTHON")
SAMPLERS: list[type[Sampler]] = [Temperature]
OPTIONS = HarnessOptions(
    kv_block_size=16, num_cache_blocks=64, max_batch_size=8, chunked_prefill_size=16, max_sequence_length=64
)
NUM_ROWS, NUM_TOKENS = 6, 24
CHAINS = [
    pytest.param(backends, (cut,), marks=[] if cut == 1 else pytest.mark.thorough)
    for backends in (("torch", "mlx"), ("mlx", "torch"))
    for cut in range(1, NUM_LAYERS)
]
CHAINS += [pytest.param(("mlx", "torch", "mlx"), (1, 2))]


@pytest.fixture(scope="module")
def workers() -> Iterator[StageWorkers]:
    with StageWorkers(3) as running:
        yield running


@pytest.fixture(scope="module")
def excuses() -> Iterator[Excuses]:
    counted = Excuses()
    yield counted
    assert counted.num_tokens > 0
    assert counted.share <= 0.001


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, list[Reference]]]:
    """Family → a folder and what transformers says to prompts of 3 to 33 tokens."""
    made: dict[str, tuple[Path, list[Reference]]] = {}

    def get(family: str) -> tuple[Path, list[Reference]]:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            # mlx-lm knows of no rope that is scaled linearly, as the tiny Llama of the torch tests has it
            settings: dict[str, Any] = (
                {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}} if family == "llama" else {}
            )
            made_model = make_model(family, folder, **settings)
            generator = torch.Generator().manual_seed(5)
            prompts = [
                torch.randint(3, VOCAB_SIZE, (3 + 6 * row,), generator=generator).tolist() for row in range(NUM_ROWS)
            ]
            made[family] = folder, [refer(made_model, ids, NUM_TOKENS) for ids in prompts]
        return made[family]

    return get


async def continuations(
    workers: StageWorkers, folder: Path, backends: tuple[str, ...], cuts: tuple[int, ...], prompts: list[list[int]]
) -> Any:
    """Row r asks for its first 24 - 2r tokens, all at once."""
    run_stages = workers.runner(backends, OPTIONS.batching)
    got: dict[int, list[int]] = {}
    async with serving_with(
        run_stages, folder, samplers=SAMPLERS, cuts=cuts, options=OPTIONS, process="driver"
    ) as harness:

        async def one(row: int) -> None:
            submission = Submission(prompts[row], NUM_TOKENS - 2 * row, Ask({"temperature": 0.0}))
            got[row], _state = await harness.run(submission)

        async with anyio.create_task_group() as tasks:
            for row in range(len(prompts)):
                tasks.start_soon(one, row)
    return [got[row] for row in range(len(prompts))]


@pytest.mark.parametrize("family", ["llama", pytest.param("qwen3", marks=pytest.mark.thorough)])
@pytest.mark.parametrize(("backends", "cuts"), CHAINS, ids=lambda each: "-".join(map(str, each)))
def test_any_chain_of_backends_says_what_transformers_says(
    family: str,
    backends: tuple[str, ...],
    cuts: tuple[int, ...],
    model: Callable[[str], tuple[Path, list[Reference]]],
    workers: StageWorkers,
    excuses: Excuses,
) -> None:
    folder, expected = model(family)
    got = anyio.run(continuations, workers, folder, backends, cuts, [each.ids for each in expected])
    for row, reference in enumerate(expected):
        excuses.compare(got[row], reference.first(NUM_TOKENS - 2 * row))
    assert got[1] != expected[2].tokens[: len(got[1])], "a control: another prompt gives other tokens"


@pytest.mark.skipif(SGLANG is None, reason="HISTRIO_SGLANG_PYTHON does not name SGLang's environment")
@pytest.mark.parametrize(
    ("family", "backends"), [("qwen3", ("torch", "mlx", "sglang")), ("llama", ("sglang", "mlx", "torch"))]
)
def test_sglang_is_a_stage_like_any_other(
    family: str, backends: tuple[str, ...], model: Callable[[str], tuple[Path, list[Reference]]], excuses: Excuses
) -> None:
    folder, expected = model(family)
    pythons = [str(SGLANG) if backend == "sglang" else sys.executable for backend in backends]
    with StageWorkers(3, pythons) as workers:
        got = anyio.run(continuations, workers, folder, backends, (1, 2), [each.ids for each in expected])
    for row, reference in enumerate(expected):
        excuses.compare(got[row], reference.first(NUM_TOKENS - 2 * row))
