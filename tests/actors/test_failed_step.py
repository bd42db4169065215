"""A row that raises alone while others pass is to blame for its step; no row is for a device that fails at random."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from histrio.actors.failed_step import blamed, failed_step_of, note_failed_step
from histrio.contracts.backend import BackendFactory, OpenedStage, Progress, StageOutput, StageSpec, StepBatch
from histrio.contracts.gateway import Submission
from histrio.errors import RequestBrokeEngine
from histrio.messages import Ask, FailedRow, FailedStep, Tensor
from histrio.testing.harness import Harness, HarnessOptions, serving
from histrio.testing.toy import ToyFactory, ToyStage, toy_continuation, write_toy_model

NUM_LAYERS, VOCAB = 3, 258
POISON = 251
REQUESTS = [11, 12, 13, 14]


def rows(*requests: int) -> list[FailedRow]:
    return [FailedRow(request, 7, 8) for request in requests]


def broken() -> None:
    raise RuntimeError("it broke")


def full() -> None:
    raise MemoryError


def raised(compute: Callable[[], None] = broken) -> BaseException:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        compute()
    return caught.value


def look(compute: Callable[[int], object], requests: list[int] | None = None, **others: Any) -> FailedStep:
    now = iter(range(1000))
    step = FailedStep(3, rows(*(REQUESTS if requests is None else requests)))
    return blamed(others.get("error") or raised(), step, compute, others.get("clock") or (lambda: 0.01 * next(now)))


def test_the_rows_that_raise_alone_are_to_blame() -> None:
    assert look(lambda index: broken() if index in (1, 3) else None).culprits == [12, 14]
    assert look(lambda index: None).culprits == [], "a control: it was the device's"


def test_a_broken_device_lets_no_row_pass_and_blames_none() -> None:
    assert look(lambda index: broken()) == FailedStep(3, rows(*REQUESTS))


@pytest.mark.parametrize("num_failing", [1, 2, 3])
def test_a_device_that_recovers_meanwhile_blames_none(num_failing: int) -> None:
    computed: list[int] = []

    def compute(index: int) -> None:
        computed.append(index)
        if len(computed) <= num_failing:
            broken()

    assert look(compute).culprits == []
    assert len(computed) == len(REQUESTS) + num_failing, "a control: those that raised were asked again"


def test_another_error_than_before_says_nothing() -> None:
    def compute(index: int) -> None:
        if index == 1:
            raise RuntimeError("it is where it has been already")

    assert look(compute).culprits == []
    assert look(lambda index: 1 / 0 if index == 1 else None).culprits == []


def test_a_lack_of_memory_is_shared() -> None:
    assert look(lambda index: full() if index == 1 else None, error=raised(full)).culprits == []
    assert look(lambda index: full(), [11], error=raised(full)).raises_again, "a control: no other request shares it"


def test_a_row_that_was_alone_can_only_raise_again() -> None:
    assert look(lambda index: broken(), [11]) == FailedStep(3, rows(11), raises_again=True)
    assert look(lambda index: None, [11]) == FailedStep(3, rows(11))


def test_looking_takes_no_longer_than_its_limit() -> None:
    num_computed = 0

    def compute(index: int) -> None:
        nonlocal num_computed
        num_computed += 1
        if index == 1:
            broken()

    now = iter(range(1000))
    assert look(compute, list(range(100)), clock=lambda: float(next(now))).culprits == []
    assert num_computed < 4


def test_an_error_carries_its_step() -> None:
    error = ValueError()
    assert failed_step_of(error) is None
    note_failed_step(error, FailedStep(3, rows(11)))
    assert failed_step_of(error) == FailedStep(3, rows(11))


def test_a_row_of_a_batch_is_that_row_alone() -> None:
    data = bytes(range(24))
    whole = Tensor("float32", (3, 2), data)
    part = whole.rows(1, 3)
    assert (part.shape, bytes(part.data)) == ((2, 2), data[8:])


class Faulty:
    """The toy backend with a device that fails at some of its steps, and raises at every step with a poisoned token."""

    def __init__(self, fails_at: frozenset[int] = frozenset(), cuts: tuple[int, ...] = ()) -> None:
        factory: BackendFactory = ToyFactory()
        self.name, self.traits = factory.name, factory.traits
        self.probe, self.supports = factory.probe, factory.supports
        self._factory = factory
        self._fails_at = fails_at
        self.cuts = cuts
        self.num_steps = 0

    def open(self, spec: StageSpec, progress: Progress) -> OpenedStage:
        stage = self._factory.open(spec, progress)
        assert isinstance(stage, ToyStage)
        step = stage.step

        def failing(batch: StepBatch) -> StageOutput:
            self.num_steps += 1
            if self.num_steps in self._fails_at:
                raise RuntimeError("the device failed")
            if batch.token_ids is not None and POISON in batch.token_ids:
                raise RuntimeError("poisoned")
            return step(batch)

        stage.step = failing  # type: ignore[method-assign]
        return stage


Answers = dict[int, tuple[list[int], str]]
"""By prompt: the tokens, and the code of the error."""


async def ask(harness: Harness, prompts: list[list[int]]) -> Answers:
    answers: Answers = {}

    async def one(index: int) -> None:
        (stream,) = harness.gateway.submit(Submission(prompts[index], 12, Ask({"temperature": 0.0})))
        ids: list[int] = []
        code = ""
        async for delta in stream:
            ids += delta.ids
            code = delta.extras.code
        answers[index] = ids, code

    async with anyio.create_task_group() as tasks:
        for index in range(len(prompts)):
            tasks.start_soon(one, index)
    return answers


def played(model: Path, factory: Faulty, prompts: list[list[int]]) -> tuple[Answers, int]:
    """What each prompt is answered, and how often the replica went down."""

    async def run() -> tuple[Answers, int]:
        options = HarnessOptions(num_micro_batches=2)
        async with serving(model, factory, samplers=[], cuts=factory.cuts, options=options) as harness:
            failures: list[str] = []
            harness.front.root.on_failed = lambda actor, _error: failures.append(actor)
            answers = await ask(harness, prompts)
            return answers, len(failures)

    return anyio.run(run)


def expected(prompt: list[int]) -> tuple[list[int], str]:
    return toy_continuation(prompt, 12, num_layers=NUM_LAYERS, vocab_size=VOCAB), ""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_toy_model(tmp_path / "toy", num_layers=NUM_LAYERS)


INNOCENT = [[index, index + 1, 3] for index in range(8)]


@pytest.mark.parametrize("cuts", [(), (1,)])
def test_a_poisoned_request_among_others_ends_alone_within_two_failures(cuts: tuple[int, ...], model: Path) -> None:
    answers, num_failures = played(model, Faulty(cuts=cuts), [*INNOCENT, [7, POISON, 3]])
    assert answers.pop(len(INNOCENT)) == ([], RequestBrokeEngine.code)
    assert answers == {index: expected(prompt) for index, prompt in enumerate(INNOCENT)}
    assert 1 <= num_failures <= 2


def test_a_poisoned_request_that_is_alone_ends_by_its_second_failure(model: Path) -> None:
    answers, num_failures = played(model, Faulty(), [[7, POISON, 3]])
    assert answers[0][1] == RequestBrokeEngine.code
    assert num_failures == 2


@pytest.mark.parametrize("prompts", [INNOCENT, INNOCENT[:1]])
@pytest.mark.parametrize("second", range(2, 11, 2))
def test_a_device_that_fails_twice_ends_no_request(prompts: list[list[int]], second: int, model: Path) -> None:
    """Also where it fails in the same step of a request that was alone in it both times."""
    num_looked = len(prompts)  # rows that are computed once more after the first failure
    factory = Faulty(fails_at=frozenset({3, 3 + num_looked + second}))
    answers, num_failures = played(model, factory, prompts)
    assert answers == {index: expected(prompt) for index, prompt in enumerate(prompts)}
    assert num_failures == 2, "a control: it did fail"
