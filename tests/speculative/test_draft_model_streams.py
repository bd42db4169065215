"""Drafting with a model changes no token of a greedy or seeded stream, however many of its drafts are accepted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from histrio.config.settings import SpeculationSettings
from histrio.contracts.backend import BackendFactory
from histrio.contracts.drafter import DrafterFactory
from histrio.contracts.gateway import Submission
from histrio.demo import draft_path, target_path
from histrio.messages import Ask, RequestState
from histrio.testing.harness import Harness, HarnessOptions, serving
from histrio.testing.models import write_model
from histrio.testing.toy import ToyFactory, write_toy_model
from histrio.testing.wait import eventually_async
from histrio_samplers.plugin import SAMPLERS
from histrio_speculative.draft_model import DraftModelFactory
from histrio_speculative.early_exit import EarlyExitFactory
from histrio_torch.factory import TorchFactory

pytestmark = pytest.mark.timeout(90)  # the first of them imports torch and transformers

NUM_TOKENS, NUM_REQUESTS = 24, 8
FIELDS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.8, "top_k": 20},
    {"temperature": 0.0, "repetition_penalty": 1.3},
    {"temperature": 1.0, "top_p": 0.9, "presence_penalty": 0.5},
]
ALWAYS = SpeculationSettings(adaptive=False, speculation_length=4)


@dataclass(frozen=True)
class Pair:
    """A model, and one that drafts for it."""

    target: Path
    draft: Path
    factory: BackendFactory


@dataclass
class Totals:
    """What a run drafted."""

    num_drafted: int = 0
    num_accepted: int = 0
    num_preemptions: float = 0


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    folder = tmp_path_factory.mktemp("pairs")
    toy = write_toy_model(folder / "toy", num_layers=3)
    llama = write_model("llama", folder / "llama", seed=1)
    return {
        "toy": Pair(toy, write_toy_model(folder / "same", num_layers=3), ToyFactory()),
        "llama": Pair(llama, llama, TorchFactory()),
        "stranger": Pair(llama, write_model("llama", folder / "stranger", seed=2), TorchFactory()),
        "demo": Pair(target_path(), draft_path(), TorchFactory()),
    }


@pytest.fixture(scope="module")
def plain(pairs: dict[str, Pair]) -> Callable[[str], list[list[int]]]:
    """Name of a pair → its streams without drafts."""

    @cache
    def get(name: str) -> list[list[int]]:
        streams, totals = anyio.run(play, pairs[name], None, ())
        assert totals.num_drafted == 0
        assert len({tuple(tokens) for tokens in streams}) == NUM_REQUESTS, "a control: others get other tokens"
        return streams

    return get


async def play(
    pair: Pair,
    drafter: DrafterFactory | None,
    cuts: Sequence[int],
    drafter_options: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[list[list[int]], Totals]:
    """Eight streams side by side, two of them a little before the others."""
    draft = {"model": str(pair.draft)} if isinstance(drafter, DraftModelFactory) else {}
    settings = HarnessOptions(
        drafter=drafter, drafter_options={**draft, **(drafter_options or {})}, speculation=ALWAYS, **options
    )
    got: dict[int, list[int]] = {}
    totals = Totals()
    async with serving(pair.target, pair.factory, samplers=list(SAMPLERS), cuts=cuts, options=settings) as harness:
        for batch in (range(2), range(2, NUM_REQUESTS)):
            async with anyio.create_task_group() as tasks:
                for index in batch:
                    tasks.start_soon(hear, harness, index, got, totals)
        status = harness.gateway.status
        await eventually_async(lambda: not status.num_unfinished and not status.gauges.get("running_sequences"))
        totals.num_preemptions = status.counters["preemptions_total"]
    return [got[index] for index in range(NUM_REQUESTS)], totals


async def hear(harness: Harness, index: int, got: dict[int, list[int]], totals: Totals) -> None:
    (stream,) = harness.gateway.submit(submission(index))
    got[index] = []
    async for delta in stream:
        got[index] += delta.ids
        totals.num_drafted += delta.extras.num_drafted
        totals.num_accepted += delta.extras.num_accepted


def submission(index: int, **others: Any) -> Submission:
    ids = [index + 1, *range(5, 5 + 7 * index)]
    return Submission(ids, NUM_TOKENS, Ask(FIELDS[index % 4], seed=index, **others))


CASES: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "toy, whole": ("toy", (), {}),
    "toy, three stages": ("toy", (1, 2), {}),
    "toy, preempted": ("toy", (), {"num_cache_blocks": 20, "max_sequence_length": 80}),
    "toy, two micro-batches": ("toy", (1,), {"num_micro_batches": 2}),
    "toy, few blocks to draft in": ("toy", (), {"drafter_options": {"num-cache-tokens": 96}}),
    "llama, whole": ("llama", (), {}),
    "llama, two stages": ("llama", (1,), {}),
    "llama, three stages, preempted": ("llama", (1, 2), {"num_cache_blocks": 20, "max_sequence_length": 80}),
    "demo, whole": ("demo", (), {}),
    "demo, two stages": ("demo", (3,), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_draft_model_changes_no_token(
    case: str, pairs: dict[str, Pair], plain: Callable[[str], list[list[int]]]
) -> None:
    name, cuts, options = CASES[case]

    async def run() -> tuple[list[list[int]], Totals]:
        return await play(pairs[name], DraftModelFactory(), cuts, **options)

    streams, totals = anyio.run(run)
    assert streams == plain(name)
    assert 0 < totals.num_accepted < totals.num_drafted
    if "preempted" in case:
        assert totals.num_preemptions > 0


def test_a_stranger_of_a_draft_model_changes_no_token_either(
    pairs: dict[str, Pair], plain: Callable[[str], list[list[int]]]
) -> None:
    streams, totals = anyio.run(play, pairs["stranger"], DraftModelFactory(), ())
    assert streams == plain("stranger")
    assert totals.num_drafted > 100
    assert totals.num_accepted < 0.1 * totals.num_drafted, "a control: other weights say other tokens"


@pytest.mark.parametrize(("name", "cuts"), [("toy", (1,)), ("llama", ()), ("demo", ())])
def test_early_exit_changes_no_token(
    name: str, cuts: tuple[int, ...], pairs: dict[str, Pair], plain: Callable[[str], list[list[int]]]
) -> None:
    streams, totals = anyio.run(play, pairs[name], EarlyExitFactory(), cuts, {"layers": 2})
    assert streams == plain(name)
    assert totals.num_drafted > 100
    assert name == "toy" or totals.num_accepted > 0


def test_cancelled_streams_leave_the_others_alone(
    pairs: dict[str, Pair], plain: Callable[[str], list[list[int]]]
) -> None:
    got: dict[int, list[int]] = {}

    async def run() -> None:
        pair = pairs["toy"]
        options = HarnessOptions(
            drafter=DraftModelFactory(),
            drafter_options={"model": str(pair.draft), "num-cache-tokens": 192},
            speculation=ALWAYS,
        )
        async with serving(pair.target, pair.factory, samplers=list(SAMPLERS), options=options) as harness:
            async with anyio.create_task_group() as tasks:
                for index in range(NUM_REQUESTS):
                    tasks.start_soon(hear_some, harness, index, None if index % 2 else 3 + index)
            assert harness.gateway.status.counters.get("accepted_tokens_total", 1) > 0

    async def hear_some(harness: Harness, index: int, num_kept: int | None) -> None:
        (stream,) = harness.gateway.submit(submission(index))
        got[index] = []
        async for delta in stream:
            got[index] += delta.ids
            if num_kept is not None and len(got[index]) >= num_kept and not delta.state.is_finished:
                stream.cancel()
                return

    anyio.run(run)
    for index, expected in enumerate(plain("toy")):
        assert got[index] == expected[: len(got[index])]
        assert index % 2 == 0 or len(got[index]) == NUM_TOKENS
    assert min(len(tokens) for tokens in got.values()) < NUM_TOKENS, "a control: some were cancelled"


def test_each_choice_is_drafted_for_by_itself(pairs: dict[str, Pair]) -> None:
    async def choices(drafter: DrafterFactory | None) -> tuple[list[list[int]], int]:
        pair = pairs["llama"]
        options = HarnessOptions(
            drafter=drafter,
            drafter_options={"model": str(pair.draft)} if drafter else {},
            speculation=ALWAYS,
        )
        streams: dict[int, list[int]] = {}
        num_accepted = 0
        async with serving(pair.target, pair.factory, samplers=list(SAMPLERS), options=options) as harness:
            for choice, stream in enumerate(harness.gateway.submit(replace(submission(1), num_choices=3))):
                streams[choice] = []
                async for delta in stream:
                    assert delta.state is not RequestState.ERROR
                    streams[choice] += delta.ids
                    num_accepted += delta.extras.num_accepted
        return [streams[choice] for choice in range(3)], num_accepted

    undrafted, _ = anyio.run(choices, None)
    drafted, num_accepted = anyio.run(choices, DraftModelFactory())
    assert drafted == undrafted
    assert len({tuple(tokens) for tokens in drafted}) == 3, "a control: the choices differ"
    assert num_accepted > 0


@pytest.mark.parametrize("cuts", [(), pytest.param((1,), marks=pytest.mark.thorough)], ids=["whole", "cut"])
def test_requests_without_a_seed_accept_by_the_ratio_of_both_models(
    cuts: tuple[int, ...], pairs: dict[str, Pair]
) -> None:
    async def share_accepted(seed: int | None) -> float:
        pair = pairs["llama"]
        options = HarnessOptions(
            drafter=DraftModelFactory(), drafter_options={"model": str(pair.draft)}, speculation=ALWAYS
        )
        totals = Totals()
        async with serving(pair.target, pair.factory, samplers=list(SAMPLERS), cuts=cuts, options=options) as harness:
            sampled = [Submission([index, 3], 64, Ask({"top_k": 12}, seed=seed)) for index in range(4)]
            for (stream,) in map(harness.gateway.submit, sampled):
                async for delta in stream:
                    totals.num_drafted += delta.extras.num_drafted
                    totals.num_accepted += delta.extras.num_accepted
        return totals.num_accepted / totals.num_drafted

    assert anyio.run(share_accepted, 1) > 0.95, "the model drafts for itself, with the same numbers"
    assert 0.5 < anyio.run(share_accepted, None) < 0.95, "the drafts are drawn at a lower temperature"
