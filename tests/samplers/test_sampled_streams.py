"""A seeded stream is the same for every split, in any company, and after a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from histrio.errors import RequestError
from histrio.gateway import Submission
from histrio.messages import RequestState
from histrio.testing.harness import Harness, HarnessOptions, serving
from histrio.testing.toy import ToyFactory, write_toy_model
from histrio.testing.wait import eventually_async
from histrio_samplers.plugin import SAMPLERS as ALL_SAMPLERS
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


EVERY: dict[str, dict[str, Any]] = {
    "allowed_token_ids": {"allowed_token_ids": list(range(0, 250, 3))},
    "bad_words": {"bad_words_ids": [[token] for token in range(100)]},
    "min_tokens": {"min_tokens": 15},
    "logit_bias": {"logit_bias": {"3": 8.0, "4": 8.0}},
    "repetition_penalty": {"repetition_penalty": 3.0},
    "occurrence_penalties": {"presence_penalty": 2.0, "frequency_penalty": 1.0, "temperature": 0},
    "dry": {"dry_multiplier": 50.0, "dry_allowed_length": 1, "allowed_token_ids": [1, 2, 3, 4]},
    "temperature": {"temperature": 0.5},
    "top_n_sigma": {"top_n_sigma": 1.0},
    "top_k": {"top_k": 10},
    "top_p": {"top_p": 0.4},
    "min_p": {"min_p": 0.3},
    "typical_p": {"typical_p": 0.3},
    "xtc": {"xtc_probability": 0.5, "xtc_threshold": 0.001},
    "mirostat": {"mirostat": 2, "mirostat_tau": 2.0, "mirostat_eta": 0.5},
}
STOPS = list(range(0, 256, 4))


async def _every_stream(harness: Harness) -> dict[str, list[int]]:
    """One stream for each sampler, all at the same time; that of `min_tokens` has tokens to stop at."""
    streams: dict[str, list[int]] = {}

    async def run(name: str, seed: int) -> None:
        stops = STOPS if name == "min_tokens" else []
        prompt = [seed, 1, 2, 3, 1, 2, 3, 1]
        submission = Submission(prompt, NUM_TOKENS, sampling=EVERY[name], stop_ids=stops, seed=seed)
        streams[name], _ = await harness.run(submission)

    async with anyio.create_task_group() as tasks:
        for seed, name in enumerate(EVERY):
            tasks.start_soon(run, name, seed)
    return streams


DISTURBANCES: dict[str, tuple[list[int], HarnessOptions]] = {
    "split": ([1, 3], HarnessOptions()),
    "restarts": ([], HarnessOptions(stage_options={"fail-at-step": 14})),
    "preemption": ([2], HarnessOptions(num_blocks=24)),
    "small_chunks": ([], HarnessOptions(prefill_chunk=3, max_step_tokens=16)),
}


@pytest.mark.parametrize("disturbance", DISTURBANCES)
async def test_no_disturbance_changes_a_stream_of_any_sampler(model: Path, disturbance: str) -> None:
    cuts, options = DISTURBANCES[disturbance]
    async with serving(model, ToyFactory(), samplers=list(ALL_SAMPLERS)) as harness:
        expected = await _every_stream(harness)
        assert harness.front.gateway.status.num_replays == 0

    async with serving(model, ToyFactory(), cuts=cuts, samplers=list(ALL_SAMPLERS), options=options) as harness:
        assert await _every_stream(harness) == expected
        status = harness.front.gateway.status
        await eventually_async(lambda: status.gauges.get("running_sequences") == 0)
        assert (status.num_replays > 0) == (disturbance == "restarts")
        assert (status.counters["preemptions_total"] > 0) == (disturbance == "preemption")


async def test_a_text_with_min_tokens_ends_at_the_first_stop_after_them(model: Path) -> None:
    async with serving(model, ToyFactory(), samplers=list(ALL_SAMPLERS)) as harness:
        tokens = (await _every_stream(harness))["min_tokens"]
        submission = Submission([2, 1, 2, 3, 1, 2, 3, 1], NUM_TOKENS, stop_ids=STOPS, seed=2)
        unlimited, _ = await harness.run(submission)

    assert not set(tokens[:15]) & set(STOPS)
    assert len(unlimited) < 15
    assert unlimited[-1] in STOPS


async def test_a_request_whose_constraints_contradict_each_other_ends_with_an_error_alone(model: Path) -> None:
    nothing = {"allowed_token_ids": [4, 8], "min_tokens": 5}
    async with serving(model, ToyFactory(), samplers=list(ALL_SAMPLERS)) as harness:
        for temperature in (0, 1.0):
            submission = Submission(PROMPT, NUM_TOKENS, sampling=nothing | {"temperature": temperature}, stop_ids=STOPS)
            assert await harness.run(submission) == ([], RequestState.ERROR)
        assert len(await _stream(harness, seed=1)) == NUM_TOKENS
        assert harness.front.gateway.status.num_replays == 0


async def test_the_front_refuses_token_ids_that_the_model_does_not_have(model: Path) -> None:
    async with serving(model, ToyFactory(), samplers=list(ALL_SAMPLERS)) as harness:
        harness.gateway.check_sampling({"logit_bias": {"257": 1.0}})
        with pytest.raises(RequestError, match="below 258"):
            harness.gateway.check_sampling({"logit_bias": {"258": 1.0}})
