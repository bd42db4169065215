"""A seeded stream is the same for every split, in any company, and after a restart."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from histrio.gateway import Submission
from histrio.messages import RequestState
from histrio.testing.harness import Harness, HarnessOptions, serving
from histrio.testing.toy import ToyFactory, write_toy_model
from histrio_samplers.temperature import Temperature
from histrio_samplers.top_k import TopK
from histrio_samplers.top_p import TopP

pytestmark = pytest.mark.anyio

SAMPLERS = [Temperature, TopK, TopP]
SAMPLING = {"temperature": 0.9, "top_k": 40, "top_p": 0.95}
PROMPT = [5, 9, 200, 3]
NUM_TOKENS = 24


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_toy_model(tmp_path / "toy", num_layers=4)


async def _stream(harness: Harness, seed: int, prompt: list[int] = PROMPT) -> list[int]:
    tokens, state = await harness.run(Submission(prompt, NUM_TOKENS, sampling=SAMPLING, seed=seed))
    assert state is RequestState.FINISHED_MAX_LENGTH
    return tokens


async def _undisturbed(model: Path, seed: int) -> list[int]:
    async with serving(model, ToyFactory(), samplers=SAMPLERS) as harness:
        return await _stream(harness, seed)


@pytest.mark.parametrize("cuts", [[2], [1, 3]])
async def test_every_split_draws_the_same_tokens(model: Path, cuts: list[int]) -> None:
    expected = await _undisturbed(model, seed=7)

    async with serving(model, ToyFactory(), cuts=cuts, samplers=SAMPLERS) as harness:
        assert await _stream(harness, seed=7) == expected
        assert await _stream(harness, seed=8) != expected


async def test_company_changes_no_draw(model: Path) -> None:
    expected = await _undisturbed(model, seed=7)
    tokens: list[int] = []
    async with serving(model, ToyFactory(), samplers=SAMPLERS) as harness, anyio.create_task_group() as tasks:
        for seed in range(12):
            tasks.start_soon(_stream, harness, seed, [seed, 4, 4] * (1 + seed))
        tokens = await _stream(harness, seed=7)

    assert tokens == expected


async def test_a_restart_in_the_middle_changes_no_draw(model: Path) -> None:
    expected = await _undisturbed(model, seed=7)
    options = HarnessOptions(stage_options={"fail-at-step": 10})

    async with serving(model, ToyFactory(), samplers=SAMPLERS, options=options) as harness:
        # A step of the second chain is the tenth again, so a stream of 24 tokens sees two restarts.
        tokens = await _stream(harness, seed=7)
        assert harness.front.gateway.status.num_replays >= 2

    assert tokens == expected


async def test_choices_of_one_seed_differ(model: Path) -> None:
    async with serving(model, ToyFactory(), samplers=SAMPLERS) as harness:
        submission = Submission(PROMPT, NUM_TOKENS, sampling=SAMPLING, seed=7, num_choices=2)
        first, second = [
            [token async for delta in stream for token in delta.ids] for stream in harness.gateway.submit(submission)
        ]

    assert first != second
    assert first == await _undisturbed(model, seed=7)
