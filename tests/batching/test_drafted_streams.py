"""Drafts through all actors, with the toy backend as judge: fewer steps, and the very same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from histrio.config.settings import SpeculationSettings
from histrio.contracts.gateway import Submission
from histrio.contracts.sampler import Sampler
from histrio.messages import Ask
from histrio.testing.harness import Harness, HarnessOptions, serving
from histrio.testing.scripted_drafter import ScriptedDrafterFactory
from histrio.testing.toy import ToyFactory, toy_continuation, write_toy_model
from histrio.testing.wait import eventually_async
from histrio_samplers.repetition_penalty import RepetitionPenalty
from histrio_samplers.temperature import Temperature
from histrio_samplers.top_k import TopK

NUM_LAYERS, VOCAB, NUM_TOKENS = 3, 258, 60
SAMPLERS: list[type[Sampler]] = [Temperature, TopK, RepetitionPenalty]
FIELDS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.8, "top_k": 3},
    {"temperature": 0.0, "repetition_penalty": 1.3},
    {"temperature": 1.0, "top_k": 2, "repetition_penalty": 1.1},
]


def erring_oracle(ids: list[int], num_tokens: int) -> list[int]:
    """Knows what the toy will say, and errs now and then."""
    right = toy_continuation(ids, num_tokens, num_layers=NUM_LAYERS, vocab_size=VOCAB)
    return [token if index % 3 < 2 or len(ids) % 2 else 7 for index, token in enumerate(right)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_toy_model(tmp_path / "toy", num_layers=NUM_LAYERS)


async def streams(
    model: Path, drafter: ScriptedDrafterFactory | None, cuts: Sequence[int], **options: Any
) -> tuple[list[list[int]], dict[str, float]]:
    """Eight streams side by side with all kinds of fields; and the engine's totals."""
    got: dict[int, list[int]] = {}
    # Of a set length: whether they pay on this machine, at this moment, is another matter.
    always = SpeculationSettings(speculation_length=4, adaptive=False)
    settings = HarnessOptions(drafter=drafter, speculation=always, **options)
    async with serving(model, ToyFactory(), samplers=SAMPLERS, cuts=cuts, options=settings) as harness:

        async def one(index: int) -> None:
            got[index] = await run(harness, index)

        for batch in (range(2), range(2, 8)):
            async with anyio.create_task_group() as tasks:
                for index in batch:
                    tasks.start_soon(one, index)
        status = harness.gateway.status
        await eventually_async(lambda: not status.num_unfinished and not status.gauges.get("running_sequences"))
        return [got[index] for index in range(8)], dict(status.counters)


async def run(harness: Harness, index: int) -> list[int]:
    submission = Submission([index + 1, 5, 6], NUM_TOKENS, Ask(FIELDS[index % 4], seed=index))
    (stream,) = harness.gateway.submit(submission)
    return [token async for delta in stream for token in delta.ids]


@pytest.mark.anyio
@pytest.mark.parametrize("cuts", [[], [1]], ids=["whole", "cut"])
@pytest.mark.parametrize(
    "options", [{}, {"num_cache_blocks": 60}, {"num_micro_batches": 2}], ids=["plain", "short", "two"]
)
async def test_drafts_change_no_token_and_save_steps(model: Path, cuts: list[int], options: dict[str, Any]) -> None:
    plain, without = await streams(model, None, cuts, **options)
    drafted, totals = await streams(model, ScriptedDrafterFactory(erring_oracle), cuts, **options)
    assert drafted == plain
    assert len({tuple(tokens) for tokens in plain}) == 8, "a control: other requests get other tokens"
    assert totals["accepted_tokens_total"] > 0
    assert totals["accepted_tokens_total"] < totals["drafted_tokens_total"]
    assert totals["steps_total"] < without["steps_total"]
    assert without["drafted_tokens_total"] == 0


@pytest.mark.anyio
async def test_a_request_may_bound_its_drafts(model: Path) -> None:
    bounds, most_asked = (0, 1, 3, None, 64), dict.fromkeys(range(1, 6), 0)

    def draft(ids: list[int], num_tokens: int) -> list[int]:
        most_asked[ids[0]] = max(most_asked[ids[0]], num_tokens)
        return erring_oracle(ids, num_tokens)

    always = SpeculationSettings(speculation_length=4, adaptive=False)
    options = HarnessOptions(drafter=ScriptedDrafterFactory(draft), speculation=always)
    async with serving(model, ToyFactory(), samplers=SAMPLERS, options=options) as harness:

        async def one(first: int, bound: int | None) -> None:
            submission = Submission([first, 5, 6], NUM_TOKENS, Ask({"temperature": 0.0}, max_speculation=bound))
            (stream,) = harness.gateway.submit(submission)
            deltas = [delta async for delta in stream]
            # A delta may hold several steps' tokens. Each step's are those accepted, and one.
            num_steps = NUM_TOKENS - sum(delta.extras.num_accepted for delta in deltas)
            num_drafted = sum(delta.extras.num_drafted for delta in deltas)
            assert num_drafted <= min(4, 64 if bound is None else bound) * num_steps
            assert (num_drafted > 0) == (bound != 0)

        async with anyio.create_task_group() as tasks:
            for first, bound in enumerate(bounds, 1):
                tasks.start_soon(one, first, bound)
    assert most_asked == {1: 0, 2: 1, 3: 3, 4: 4, 5: 4}


@pytest.mark.anyio
async def test_greedy_streams_are_those_of_the_plain_computation(model: Path) -> None:
    drafted, _ = await streams(model, ScriptedDrafterFactory(erring_oracle), [2])
    assert drafted[0] == toy_continuation([1, 5, 6], NUM_TOKENS, num_layers=NUM_LAYERS, vocab_size=VOCAB)
    assert drafted[4] == toy_continuation([5, 5, 6], NUM_TOKENS, num_layers=NUM_LAYERS, vocab_size=VOCAB)
