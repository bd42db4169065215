"""Log probabilities of prompts through all actors: the toy backend, computed plainly, is the judge."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import numpy.typing as npt
import pytest
import torch

from histrio.contracts.backend import Capability, OpenedStage, Progress, StageOutput, StageSpec, StepBatch
from histrio.contracts.gateway import Submission
from histrio.errors import BackendError, RequestError
from histrio.messages import Ask, Open, RequestState, Row, TokenLogprobs
from histrio.stage.sampling.numpy_arrays import NumpyArrays
from histrio.stage.sampling.prompt_scores import PromptScorer
from histrio.testing.harness import Harness, HarnessOptions, serving
from histrio.testing.toy import ToyFactory, ToyStage, toy_logits, write_toy_model
from histrio.testing.wait import eventually_async
from histrio_samplers.temperature import Temperature

NUM_LAYERS, VOCAB = 3, 258
LONG = [(11 * index + 5) % 250 for index in range(150)]
"""Scored in three chunks."""
MOST_ERROR = 1e-4


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_toy_model(tmp_path / "toy", num_layers=NUM_LAYERS)


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = torch.log_softmax(torch.tensor(logits, dtype=torch.float64), -1).numpy()
    return found


@cache
def expected(ids: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """[tokens - 1, vocab] what follows each token of a prompt but the last."""
    lengths = range(1, len(ids))
    logits = [toy_logits(list(ids[:length]), num_layers=NUM_LAYERS, vocab_size=VOCAB) for length in lengths]
    return log_softmax(np.array(logits, np.float32).reshape(-1, VOCAB))


def check(found: list[TokenLogprobs], ids: list[int], num_top: int = 0) -> None:
    judged = expected(tuple(ids))
    assert len(found) == len(ids) - 1
    logprobs = np.array([each.logprob for each in found])
    assert np.abs(logprobs - judged[range(len(found)), ids[1:]]).max(initial=0) < MOST_ERROR
    ranks = (judged > judged[range(len(found)), ids[1:]][:, None]).sum(-1) + 1
    assert [each.rank for each in found] == ranks.tolist()
    for each, row in zip(found, judged, strict=True):
        best = np.argsort(-row)[:num_top]
        assert [token for token, _ in each.top] == best.tolist()
        assert [logprob for _, logprob in each.top] == pytest.approx(row[best], abs=MOST_ERROR)
    if len(ids) > 3:
        assert np.abs(logprobs[1:] - judged[range(len(found) - 1), ids[1:-1]]).max() > 0.1, "a control: one off"
        assert len(set(ranks.tolist())) > 1, "a control: ranks differ"


async def run(harness: Harness, ids: list[int], num_tokens: int = 3, num_choices: int = 1, **fields: Any) -> list[Any]:
    """Tokens and scores of every choice."""
    asked: dict[str, Any] = {"num_prompt_logprobs": 0, "sampling": {"temperature": 0.0}} | fields
    found: list[Any] = []
    for stream in harness.gateway.submit(Submission(ids, num_tokens, Ask(**asked), num_choices)):
        tokens: list[int] = []
        scores: list[TokenLogprobs] = []
        async for delta in stream:
            assert not (tokens and delta.extras.prompt_logprobs), "they come with the first tokens"
            assert delta.state is not RequestState.ERROR, delta.extras.reason
            tokens += delta.ids
            scores += delta.extras.prompt_logprobs
        found.append((tokens, scores))
    return found


@pytest.mark.anyio
@pytest.mark.parametrize("cuts", [[], [1], [1, 2]])
@pytest.mark.parametrize("num_micro_batches", [1, 3])
async def test_every_token_is_scored_whatever_the_split(
    model: Path, cuts: Sequence[int], num_micro_batches: int
) -> None:
    options = HarnessOptions(
        num_micro_batches=num_micro_batches, max_num_tokens_per_batch=256, chunked_prefill_size=128
    )
    async with serving(model, ToyFactory(), samplers=[Temperature], cuts=cuts, options=options) as harness:
        for ids in ([7], [7, 8], LONG[:64], LONG[:65], LONG):
            ((tokens, scores),) = await run(harness, ids, num_prompt_logprobs=2)
            check(scores, ids, num_top=2)
            ((plain, nothing),) = await run(harness, ids, num_prompt_logprobs=None)
            assert (plain, nothing) == (tokens, []), "scoring changes no token"


@pytest.mark.anyio
async def test_a_known_prefix_is_scored_as_a_new_one(model: Path) -> None:
    async with serving(model, ToyFactory(), samplers=[Temperature]) as harness:
        await run(harness, LONG, num_prompt_logprobs=None)
        for _ in range(2):
            ((_, scores),) = await run(harness, LONG)
            check(scores, LONG)


@pytest.mark.anyio
async def test_of_several_choices_the_first_tells(model: Path) -> None:
    async with serving(model, ToyFactory(), samplers=[Temperature]) as harness:
        fields: dict[str, Any] = {"num_choices": 3, "sampling": {"temperature": 1.0}, "seed": 1}
        first, *others = await run(harness, LONG, **fields)
    check(first[1], LONG)
    assert [scores for _, scores in others] == [[], []]


async def crowd(harness: Harness) -> dict[int, Any]:
    """Prompts with and without scores side by side."""
    found: dict[int, Any] = {}

    async def one(nth: int) -> None:
        num_prompt_logprobs = None if nth % 3 == 2 else nth % 3
        (found[nth],) = await run(harness, LONG[nth * 9 :], 40, num_prompt_logprobs=num_prompt_logprobs)

    async with anyio.create_task_group() as tasks:
        for nth in range(9):
            tasks.start_soon(one, nth)
    return found


class _FragileStage(ToyStage):
    def __init__(self, factory: _FragileFactory, spec: StageSpec, progress: Progress) -> None:
        super().__init__(spec, progress)
        self._factory = factory

    def step(self, batch: StepBatch) -> StageOutput:
        self._factory.num_steps += 1
        if self._factory.num_steps == self._factory.fails_at_step:
            raise RuntimeError("the toy device failed, as it was told to")
        return super().step(batch)


class _FragileFactory(ToyFactory):
    """Its stages fail once, in this step of all that they run together."""

    def __init__(self, fails_at_step: int) -> None:
        self.fails_at_step = fails_at_step
        self.num_steps = 0

    def open(self, spec: StageSpec, progress: Progress) -> OpenedStage:
        return _FragileStage(self, spec, progress)


@pytest.mark.anyio
@pytest.mark.parametrize("trouble", ["none", "preemption", "a lost replica"])
async def test_trouble_changes_no_score(model: Path, trouble: str) -> None:
    factory = _FragileFactory(17 if trouble == "a lost replica" else 0)
    options = HarnessOptions(num_cache_blocks=90 if trouble == "preemption" else 600)
    async with serving(model, factory, samplers=[Temperature], cuts=[1], options=options) as harness:
        found = await crowd(harness)
        status = harness.gateway.status
        await eventually_async(lambda: status.gauges.get("running_sequences") == 0)
    assert (status.epoch > 1) == (trouble == "a lost replica")
    assert (status.counters["preemptions_total"] > 0) == (trouble == "preemption")
    for nth, (_, scores) in found.items():
        if nth % 3 == 2:
            assert scores == []
        else:
            check(scores, LONG[nth * 9 :], num_top=nth % 3)


# --- refused ---------------------------------------------------------------------------------------------------------


class _LastPositionStage(ToyStage):
    def __init__(self, spec: StageSpec, progress: Progress) -> None:
        super().__init__(spec, progress)
        self.capacity.capabilities.remove(Capability.ALL_POSITION_LOGITS)


class _LastPositionFactory(ToyFactory):
    def open(self, spec: StageSpec, progress: Progress) -> OpenedStage:
        return _LastPositionStage(spec, progress)


@pytest.mark.anyio
async def test_a_replica_without_logits_of_all_positions_refuses(model: Path) -> None:
    async with serving(model, _LastPositionFactory(), samplers=[Temperature]) as harness:
        assert not harness.gateway.model.honours.prompt_logprobs
        with pytest.raises(RequestError, match="prompt_logprobs") as caught:
            await run(harness, [1, 2, 3])
        assert (caught.value.param, caught.value.status) == ("prompt_logprobs", 400)
        assert harness.gateway.status.num_unfinished == 0
        ((tokens, _),) = await run(harness, [1, 2, 3], num_prompt_logprobs=None)
        assert len(tokens) == 3


class _WaningFactory(_FragileFactory):
    """Fails once; the stages made after that give logits of last positions only."""

    def open(self, spec: StageSpec, progress: Progress) -> OpenedStage:
        return _LastPositionStage(spec, progress) if self.num_steps else super().open(spec, progress)


@pytest.mark.anyio
async def test_a_replica_that_comes_back_without_them_ends_what_it_cannot_score(model: Path) -> None:
    factory = _WaningFactory(fails_at_step=2)
    async with serving(model, factory, samplers=[Temperature]) as harness:
        asked = [Submission(LONG, 3, Ask({"temperature": 0.0}, num_prompt_logprobs=each)) for each in (0, None)]
        scored, plain = (harness.gateway.submit(submission)[0] for submission in asked)
        deltas = [delta async for delta in scored]
        assert [(delta.state, delta.extras.code) for delta in deltas] == [(RequestState.ERROR, "engine_restarted")]
        assert "cannot score prompts" in deltas[0].extras.reason
        assert sum([len(delta.ids) async for delta in plain]) == 3
        assert harness.gateway.status.epoch == 2


# --- the scorer alone ------------------------------------------------------------------------------------------------


def command(slot: int, ids: list[int], num_prompt_logprobs: int | None) -> Open:
    return Open(slot, ids, len(ids), Ask(num_prompt_logprobs=num_prompt_logprobs))


def test_scored_positions_are_split_from_sampled_ones() -> None:
    scorer = PromptScorer()
    scorer.open(command(0, [5, 6, 7, 8, 9], 0))
    scorer.open(command(1, [1, 2], None))
    scorer.open(command(2, [3, 4, 5], 1))
    logits = np.random.default_rng(0).standard_normal((8, 12)).astype(np.float32) * 3
    judged = log_softmax(logits)
    rows = [Row(0, 0, 3, 0, num_scored=3), Row(1, 9, 3, 2), Row(2, 0, 3, 1, num_scored=2)]

    sampled, scores = scorer.split(NumpyArrays(), logits, rows)

    assert sampled is not None
    assert sampled.tolist() == logits[[3, 4, 7]].tolist()
    assert [each.logprob for each in scores[0].prompt_logprobs] == pytest.approx(judged[[0, 1, 2], [6, 7, 8]], abs=1e-5)
    assert [each.logprob for each in scores[2].prompt_logprobs] == pytest.approx(judged[[5, 6], [4, 5]], abs=1e-5)
    assert [each.top[0][0] for each in scores[2].prompt_logprobs] == judged[[5, 6]].argmax(-1).tolist()
    assert [each.logprob for each in scores[2].prompt_logprobs] != pytest.approx(judged[[4, 5], [4, 5]], abs=1e-5)
    assert set(scores) == {0, 2}

    sampled, scores = scorer.split(NumpyArrays(), logits[:1], [Row(0, 3, 1, 0, num_scored=1)])
    assert sampled is None
    assert [each.logprob for each in scores[0].prompt_logprobs] == pytest.approx([judged[0, 9]], abs=1e-5)


def test_without_scored_rows_the_same_array_passes() -> None:
    logits = np.zeros((2, 5), np.float32)
    scorer = PromptScorer()
    scorer.open(command(0, [1, 2, 3], 0))
    sampled, scores = scorer.split(NumpyArrays(), logits, [Row(0, 0, 1, 1), Row(1, 4, 1, 1)])
    assert sampled is logits
    assert scores == {}
    assert scorer.split(NumpyArrays(), None, [Row(0, 0, 1, 0)]) == (None, {})


def test_scores_that_are_not_numbers_are_an_error() -> None:
    scorer = PromptScorer()
    scorer.open(command(0, [1, 2, 3], 0))
    logits = np.full((2, 5), np.nan, np.float32)
    with pytest.raises(BackendError, match="not numbers"):
        scorer.split(NumpyArrays(), logits, [Row(0, 0, 2, 0, num_scored=2)])
