"""A seeded stream is the same for every split, in any company, and after a restart."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from histrio.config.settings import SpeculationSettings
from histrio.contracts.backend import Probe
from histrio.contracts.drafter import Draft, DrafterSpec, DrafterTools
from histrio.contracts.gateway import Submission
from histrio.contracts.options import NoOptions
from histrio.contracts.request_fields import FieldTable
from histrio.contracts.sampler import Sampler
from histrio.errors import RequestError
from histrio.messages import Ask, RequestState
from histrio.stage.sampling import sampler_chain
from histrio.stage.sampling.acceptance import Proposals, accept_or_draw
from histrio.testing.harness import Harness, HarnessOptions, serving
from histrio.testing.scripted_drafter import ScriptedDrafter
from histrio.testing.toy import ToyFactory, write_toy_model
from histrio.testing.wait import eventually_async
from histrio_samplers.mirostat import Mirostat
from histrio_samplers.plugin import SAMPLERS as _ALL_SAMPLERS
from histrio_samplers.temperature import Temperature
from histrio_samplers.top_k import TopK
from histrio_samplers.top_p import TopP

pytestmark = pytest.mark.anyio

SAMPLERS: list[type[Sampler]] = [Temperature, TopK, TopP]
ALL_SAMPLERS: list[type[Sampler]] = list(_ALL_SAMPLERS)
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
    tokens, state = await harness.run(Submission(prompt, NUM_TOKENS, Ask(SAMPLING, seed=seed)))
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
        submission = Submission(PROMPT, NUM_TOKENS, Ask(SAMPLING, seed=7), num_choices=2)
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
    "repetition_window": {"repetition_penalty": 3.0, "repeat_last_n": 5},
    "occurrence_window": {"presence_penalty": 2.0, "occurrence_last_n": 5, "temperature": 0},
    "dry": {"dry_multiplier": 50.0, "dry_allowed_length": 1, "allowed_token_ids": [1, 2, 3, 4]},
    "dry_window": {
        "dry_multiplier": 5.0,
        "dry_base": 3.0,
        "dry_allowed_length": 1,
        "dry_penalty_last_n": 12,
        "dry_sequence_breaker_ids": [2],
        "allowed_token_ids": [1, 2, 3, 4],
    },
    "temperature": {"temperature": 0.5},
    "top_n_sigma": {"top_n_sigma": 1.0},
    "top_k": {"top_k": 10},
    "top_p": {"top_p": 0.4},
    "min_p": {"min_p": 0.3},
    "typical_p": {"typical_p": 0.3},
    "xtc": {"xtc_probability": 0.5, "xtc_threshold": 0.001},
    "mirostat": {"mirostat": 2, "mirostat_tau": 2.0, "mirostat_eta": 0.5},
}
ALL = {name: value for fields in EVERY.values() for name, value in fields.items()}
ALL |= {"temperature": 1.5, "allowed_token_ids": list(range(1, 250, 2)), "top_k": 100, "top_p": 0.9, "min_p": 0.001}
EVERY |= {"all": ALL, "all_greedy": ALL | {"temperature": 0}}
STOPS = list(range(0, 256, 4))


def test_every_sampler_and_every_field_of_it_is_tested_here() -> None:
    table = FieldTable(ALL_SAMPLERS)

    assert {kind.name for kind in ALL_SAMPLERS} <= EVERY.keys()
    assert set(table.known_fields) == ALL.keys()
    for kind in ALL_SAMPLERS:
        assert all(getattr(kind.params(), field) != ALL[field] for field in kind.params.__struct_fields__)


async def _every_stream(harness: Harness) -> dict[str, list[int]]:
    """One stream for each sampler, all at the same time; that of `min_tokens` has tokens to stop at."""
    streams: dict[str, list[int]] = {}

    async def run(name: str, seed: int) -> None:
        stops = STOPS if name == "min_tokens" else []
        prompt = [seed, 1, 2, 3, 1, 2, 3, 1]
        submission = Submission(prompt, NUM_TOKENS, Ask(EVERY[name], stop_ids=stops, seed=seed))
        streams[name], _ = await harness.run(submission)

    async with anyio.create_task_group() as tasks:
        for seed, name in enumerate(EVERY):
            tasks.start_soon(run, name, seed)
    return streams


class _Die:
    """A drafter that throws a die, and says so."""

    name = "die"
    options = NoOptions

    def supports(self, spec: DrafterSpec, tools: DrafterTools) -> Probe:
        return Probe(available=True)

    def create(self, spec: DrafterSpec, tools: DrafterTools) -> _DieDrafter:
        return _DieDrafter(lambda ids, count: [1 + (len(ids) + at) // 2 % 4 for at in range(count)])


class _DieDrafter(ScriptedDrafter):
    def propose(self, lengths: Mapping[int, int]) -> dict[int, Draft]:
        drafts = super().propose(lengths)
        return {
            request: Draft(draft.ids, [[(token, 0.25) for token in (1, 2, 3, 4)] for _ in draft.ids])
            for request, draft in drafts.items()
        }


DRAFTS = SpeculationSettings(adaptive=False, speculation_length=3)
DISTURBANCES: dict[str, tuple[list[int], HarnessOptions]] = {
    "two_stages": ([2], HarnessOptions()),
    "three_stages": ([1, 3], HarnessOptions(num_micro_batches=2)),
    "restarts": ([], HarnessOptions(stage_options={"fail-at-step": 14, "fail-times": 1})),
    "restarts_of_three_stages": ([1, 3], HarnessOptions(stage_options={"fail-at-step": 30, "fail-times": 1})),
    "preemption": ([], HarnessOptions(num_cache_blocks=24)),
    "preemption_in_two_stages": ([2], HarnessOptions(num_cache_blocks=24, num_micro_batches=2)),
    "preemption_without_prefix_cache": ([1, 3], HarnessOptions(num_cache_blocks=24, prefix_cache=False)),
    "preemption_and_restarts": (
        [2],
        HarnessOptions(num_cache_blocks=24, stage_options={"fail-at-step": 40, "fail-times": 1}),
    ),
    "small_chunks": ([], HarnessOptions(chunked_prefill_size=3, max_num_tokens_per_batch=16)),
    "drafts": ([2], HarnessOptions(drafter=_Die(), speculation=DRAFTS)),
    "drafts_and_preemption": ([], HarnessOptions(num_cache_blocks=24, drafter=_Die(), speculation=DRAFTS)),
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[int]]:
    """Every stream undisturbed."""
    folder = write_toy_model(tmp_path_factory.mktemp("undisturbed") / "toy", num_layers=4)

    async def run() -> dict[str, list[int]]:
        async with serving(folder, ToyFactory(), samplers=ALL_SAMPLERS) as harness:
            return await _every_stream(harness)

    return anyio.run(run)


@pytest.mark.parametrize("disturbance", DISTURBANCES)
async def test_no_disturbance_changes_a_stream_of_any_sampler(
    model: Path, expected: dict[str, list[int]], disturbance: str
) -> None:
    cuts, options = DISTURBANCES[disturbance]

    async with serving(model, ToyFactory(), cuts=cuts, samplers=ALL_SAMPLERS, options=options) as harness:
        assert await _every_stream(harness) == expected
        status = harness.front.gateway.status
        assert (status.num_replays > 0) == ("restarts" in disturbance)
        if "restarts" not in disturbance:
            await _has_counted(status.counters, expected)
            assert (status.counters["preemptions_total"] > 0) == ("preemption" in disturbance)
            assert (status.counters["accepted_tokens_total"] > 0) == ("drafts" in disturbance)


async def test_a_prefix_that_is_known_changes_no_stream_of_any_sampler(
    model: Path, expected: dict[str, list[int]]
) -> None:
    async with serving(model, ToyFactory(), samplers=ALL_SAMPLERS) as harness:
        counters = harness.front.gateway.status.counters
        assert await _every_stream(harness) == expected
        await _has_counted(counters, expected)
        num_cold = counters["scheduled_tokens_total"]

        assert await _every_stream(harness) == expected
        await _has_counted(counters, expected, times=2)
        assert counters["scheduled_tokens_total"] < 2 * num_cold


async def test_mirostat_that_forgets_its_state_is_found_out(
    model: Path, expected: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mirostat, "state", lambda sampler, slot: 2.0)
    cuts, options = DISTURBANCES["preemption"]

    async with serving(model, ToyFactory(), cuts=cuts, samplers=ALL_SAMPLERS, options=options) as harness:
        streams = await _every_stream(harness)

    assert [name for name in EVERY if streams[name] != expected[name]] != []
    assert streams["top_p"] == expected["top_p"]


async def _has_counted(counters: dict[str, float], streams: Mapping[Any, list[int]], times: int = 1) -> None:
    """Wait for the totals of a finished run: they come a little behind the tokens."""
    num_tokens = times * sum(map(len, streams.values()))
    await eventually_async(lambda: counters.get("generated_tokens_total") == num_tokens)


async def _keeps_to_constraints(model: Path) -> bool:
    """Whether streams without a seed do, whose drafts are thrown by a die."""
    sampling = {"allowed_token_ids": [1, 2, 3], "bad_words_ids": [[1, 1], [2, 2]]}
    submission = Submission([5, 9], 3 * NUM_TOKENS, Ask(sampling), num_choices=12)
    options = HarnessOptions(drafter=_Die(), speculation=DRAFTS)
    async with serving(model, ToyFactory(), samplers=ALL_SAMPLERS, options=options) as harness:
        streams = [
            [token async for delta in each for token in delta.ids] for each in harness.gateway.submit(submission)
        ]
        counters = harness.front.gateway.status.counters
        await _has_counted(counters, dict(enumerate(streams)))
        assert counters["accepted_tokens_total"] > 0
    assert {len(stream) for stream in streams} == {3 * NUM_TOKENS}
    pairs = {pair for stream in streams for pair in pairwise(stream)}
    return {token for stream in streams for token in stream} <= {1, 2, 3} and not pairs & {(1, 1), (2, 2)}


async def test_drawn_drafts_are_accepted_within_the_constraints_only(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await _keeps_to_constraints(model)

    def accept(xp: Any, logits: Any, rows: Any, proposals: Proposals) -> Any:
        ids, probabilities = accept_or_draw(xp, logits, rows, proposals)
        return np.where(proposals.drafted < 0, ids, proposals.drafted), probabilities

    monkeypatch.setattr(sampler_chain, "accept_or_draw", accept)
    assert not await _keeps_to_constraints(model)


async def test_a_text_with_min_tokens_ends_at_the_first_stop_after_them(model: Path) -> None:
    async with serving(model, ToyFactory(), samplers=ALL_SAMPLERS) as harness:
        tokens = (await _every_stream(harness))["min_tokens"]
        submission = Submission([2, 1, 2, 3, 1, 2, 3, 1], NUM_TOKENS, Ask(stop_ids=STOPS, seed=2))
        unlimited, _ = await harness.run(submission)

    assert not set(tokens[:15]) & set(STOPS)
    assert len(unlimited) < 15
    assert unlimited[-1] in STOPS


async def test_a_request_whose_constraints_contradict_each_other_ends_with_an_error_alone(model: Path) -> None:
    nothing = {"allowed_token_ids": [4, 8], "min_tokens": 5}
    async with serving(model, ToyFactory(), samplers=ALL_SAMPLERS) as harness:
        for temperature in (0, 1.0):
            submission = Submission(PROMPT, NUM_TOKENS, Ask(nothing | {"temperature": temperature}, stop_ids=STOPS))
            assert await harness.run(submission) == ([], RequestState.ERROR)
        assert len(await _stream(harness, seed=1)) == NUM_TOKENS
        assert harness.front.gateway.status.num_replays == 0


async def test_the_front_refuses_token_ids_that_the_model_does_not_have(model: Path) -> None:
    async with serving(model, ToyFactory(), samplers=ALL_SAMPLERS) as harness:
        harness.gateway.check_sampling({"logit_bias": {"257": 1.0}})
        with pytest.raises(RequestError, match="below 258"):
            harness.gateway.check_sampling({"logit_bias": {"258": 1.0}})
