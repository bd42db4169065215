"""Steps planned before the tokens they go on from are known: the same streams, and devices that wait less."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from histrio.batching.actor import BatchingActor
from histrio.batching.scheduler import Scheduler
from histrio.contracts.gateway import Submission
from histrio.contracts.sampler import Sampler
from histrio.messages import Ask, RequestState, StepResult
from histrio.testing.harness import Harness, HarnessOptions, serving
from histrio.testing.scripted_drafter import ScriptedDrafterFactory
from histrio.testing.toy import ToyFactory, toy_continuation, write_toy_model
from histrio.testing.wait import eventually_async
from histrio_samplers.mirostat import Mirostat
from histrio_samplers.repetition_penalty import RepetitionPenalty
from histrio_samplers.temperature import Temperature
from histrio_samplers.top_k import TopK

NUM_LAYERS, VOCAB, NUM_TOKENS = 3, 258, 40
MOST_ROUNDS = 5
"""Of measuring, where other programs have disturbed the first ones."""
SAMPLERS: list[type[Sampler]] = [Temperature, TopK, RepetitionPenalty, Mirostat]
FIELDS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.8, "top_k": 5},
    {"temperature": 0.0, "repetition_penalty": 1.3},
    {"temperature": 1.0, "mirostat": 2, "mirostat_tau": 2.0},
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_toy_model(tmp_path / "toy", num_layers=NUM_LAYERS)


def submission(index: int) -> Submission:
    """A third of them stop at a token that may come at any time."""
    stop_ids = [40, 41, 42, 43] if index % 3 == 0 else []
    prompt = [index % 5 + 1, 5, 6, *range(index)]
    return Submission(prompt, NUM_TOKENS, Ask(FIELDS[index % 4], stop_ids=stop_ids, seed=index))


async def answers(harness: Harness, count: int) -> list[tuple[list[int], RequestState]]:
    got: dict[int, tuple[list[int], RequestState]] = {}

    async def one(index: int) -> None:
        got[index] = await harness.run(submission(index))

    async with anyio.create_task_group() as tasks:
        for index in range(count):
            tasks.start_soon(one, index)
    return [got[index] for index in range(count)]


async def run(
    model: Path, num_ahead: int, **options: Any
) -> tuple[list[tuple[list[int], RequestState]], dict[str, float]]:
    settings = HarnessOptions(num_ahead=num_ahead, **options)
    async with serving(model, ToyFactory(), samplers=SAMPLERS, options=settings) as harness:
        found = await answers(harness, 24)
        status = harness.gateway.status
        await eventually_async(lambda: status.gauges.get("running_sequences") == 0)
        return found, dict(status.counters)


def sometimes_right(ids: list[int], num_tokens: int) -> list[int]:
    right = toy_continuation(ids, num_tokens, num_layers=NUM_LAYERS, vocab_size=VOCAB)
    return right if len(ids) % 3 else [7] * num_tokens


@pytest.mark.anyio
@pytest.mark.parametrize(
    "options",
    [{}, {"num_cache_blocks": 60}, {"drafter": ScriptedDrafterFactory(sometimes_right)}, {"prefix_cache": False}],
    ids=["plain", "few blocks", "drafts", "no prefix cache"],
)
async def test_streams_stay_the_same(model: Path, options: dict[str, Any]) -> None:
    expected, _ = await run(model, 0, **options)
    found, totals = await run(model, 1, **options)
    assert found == expected
    assert len({tuple(ids) for ids, _ in found}) > 20, "a control: other requests get other tokens"
    assert RequestState.FINISHED_STOP in {state for _, state in found}, "a control: some end unforeseen"
    if "num_cache_blocks" in options:
        assert totals["preemptions_total"] > 0
    # Rows that were computed for a text that had ended already are the price; there is one for each at most.
    assert totals["generated_tokens_total"] == sum(len(ids) for ids, _ in expected)


def on_devices(**options: Any) -> HarnessOptions:
    """Devices that need 10 ms per step."""
    stage_options = {"step-s": 0.01}
    return HarnessOptions(
        max_batch_size=32,
        num_cache_blocks=1024,
        max_num_tokens_per_batch=64,
        chunked_prefill_size=16,
        prefix_cache=False,
        stage_options=stage_options,
        **options,
    )


@pytest.mark.alone
@pytest.mark.anyio
@pytest.mark.parametrize(("num_ahead", "least", "most"), [(0, 0.0, 0.0), (1, 0.5, 1.0)])
async def test_the_device_has_its_next_step_before_it_has_answered_the_last_one(
    model: Path, monkeypatch: pytest.MonkeyPatch, num_ahead: int, least: float, most: float
) -> None:
    has_next: list[bool] = []
    apply = BatchingActor._apply

    def spy(actor: BatchingActor, result: StepResult, scheduler: Scheduler) -> None:
        has_next.append(len(actor._in_flight) > 1)
        apply(actor, result, scheduler)

    monkeypatch.setattr(BatchingActor, "_apply", spy)
    options = on_devices(num_ahead=num_ahead)
    async with serving(model, ToyFactory(), samplers=SAMPLERS, options=options) as harness:
        async with anyio.create_task_group() as tasks:
            for index in range(32):
                tasks.start_soon(harness.generate, [index + 1, 2], 100)
    assert len(has_next) >= 100
    assert least <= sum(has_next) / len(has_next) <= most


async def seconds_of_a_prompt(model: Path, num_micro_batches: int) -> float:
    """Until the first token after 400 others, on two devices."""
    options = on_devices(num_micro_batches=num_micro_batches)
    async with serving(model, ToyFactory(), samplers=SAMPLERS, cuts=[1], options=options) as harness:
        began = time.perf_counter()
        await harness.generate([1 + index % 200 for index in range(400)], 1)
        return time.perf_counter() - began


@pytest.mark.alone
@pytest.mark.anyio
async def test_chunks_of_one_prompt_follow_each_other_along_the_stages(model: Path) -> None:
    rounds: list[list[float]] = []
    while len(rounds) < MOST_ROUNDS:
        rounds.append([await seconds_of_a_prompt(model, count) for count in (1, 2)])
        one, two = (min(took) for took in zip(*rounds, strict=True))
        if two < 0.75 * one:
            break
    assert two < 0.75 * one, rounds
