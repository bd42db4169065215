"""What a drafter, a policy, a sampler or a grammar does wrong costs at most the one request it was done to."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import anyio
import msgspec
import numpy as np
import pytest

from histrio.config.settings import SpeculationSettings
from histrio.contracts.backend import Array, ArrayNamespace, Probe, StepBatch
from histrio.contracts.drafter import Draft, DrafterSpec, DrafterTools
from histrio.contracts.gateway import Submission
from histrio.contracts.options import NoOptions
from histrio.contracts.policy import Load
from histrio.contracts.sampler import LogitsRows, Opening
from histrio.errors import Overloaded, PluginFailed
from histrio.messages import Ask, Generate, RequestState
from histrio.testing.harness import Harness, HarnessOptions, serving
from histrio.testing.toy import ToyFactory, ToyStage, toy_continuation, write_toy_model

pytestmark = pytest.mark.anyio

NUM_LAYERS, VOCAB, NUM_TOKENS = 2, 258, 12
OBLIGING = SpeculationSettings(adaptive=False, speculation_length=2)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_toy_model(tmp_path / "toy", num_layers=NUM_LAYERS)


def said(ids: list[int], num_tokens: int = NUM_TOKENS) -> list[int]:
    return toy_continuation(ids, num_tokens, num_layers=NUM_LAYERS, vocab_size=VOCAB)


async def run_all(harness: Harness, prompts: list[list[int]], **sampling: Any) -> list[tuple[list[int], RequestState]]:
    found: dict[int, tuple[list[int], RequestState]] = {}

    async def one(index: int) -> None:
        fields = {"temperature": 0.0} | sampling
        found[index] = await harness.run(Submission(prompts[index], NUM_TOKENS, Ask(fields)))

    async with anyio.create_task_group() as tasks:
        for index in range(len(prompts)):
            tasks.start_soon(one, index)
    return [found[index] for index in range(len(prompts))]


# --- drafters --------------------------------------------------------------------------------------------------------


class OddDrafter:
    """Knows what the toy says, but for one thing; counts how often it is asked."""

    name = "odd"
    options = NoOptions

    def __init__(self, oddity: Any) -> None:
        self.oddity = oddity
        self.num_asked = 0
        self._ids: dict[int, list[int]] = {}

    def supports(self, spec: DrafterSpec, tools: DrafterTools) -> Probe:
        return Probe(available=True)

    def create(self, spec: DrafterSpec, tools: DrafterTools) -> OddDrafter:
        self._raise_in("create")
        return self

    def open(self, command: Generate, ids: Sequence[int]) -> None:
        self._raise_in("open")
        self._ids[command.request] = list(ids)

    def extend(self, request: int, ids: Sequence[int]) -> None:
        self._raise_in("extend")
        self._ids[request] += ids

    def propose(self, lengths: Mapping[int, int]) -> Any:
        self.num_asked += 1
        self._raise_in("propose")
        if self.oddity == "exit":
            sys.exit(3)
        if not callable(self.oddity):
            return {request: Draft(said(self._ids[request], count)) for request, count in lengths.items()}
        return self.oddity({request: said(self._ids[request], count) for request, count in lengths.items()})

    def close(self, request: int) -> None:
        self._raise_in("close")

    def shutdown(self) -> None:
        self._raise_in("shutdown")

    def _raise_in(self, method: str) -> None:
        if self.oddity == method:
            raise KeyError(method)


def with_ids(change: Any) -> Any:
    return lambda right: {request: Draft(change(ids)) for request, ids in right.items()}


NONSENSE = {
    "nothing": lambda _right: None,
    "a list": lambda right: [Draft(ids) for ids in right.values()],
    "lists": lambda right: right,
    "no ids": with_ids(lambda _ids: None),
    "a negative id": with_ids(lambda ids: [-1, *ids[1:]]),
    "an id beyond the vocabulary": with_ids(lambda ids: [VOCAB, *ids[1:]]),
    "a huge id": with_ids(lambda ids: [2**70, *ids[1:]]),
    "fractions": with_ids(lambda ids: [0.5 for _ in ids]),
    "text": with_ids(lambda ids: "abc"[: len(ids)]),
    "too many": with_ids(lambda ids: [*ids, *ids, *ids]),
    "a stranger": lambda right: {request + 1000: Draft(ids) for request, ids in right.items()},
    "draft probabilities without sense": lambda right: {
        request: Draft(ids, [[(VOCAB + 5, 1.0)] for _ in ids]) for request, ids in right.items()
    },
    "draft probabilities that are no numbers": lambda right: {
        request: Draft(ids, [[(1, float("nan"))] for _ in ids]) for request, ids in right.items()
    },
}
RIGHT = {
    "numpy's ints": with_ids(lambda ids: [np.int64(each) for each in ids]),
    "an array": with_ids(lambda ids: np.array(ids)),
    "truth values": with_ids(lambda ids: [bool(each) for each in ids]),
    "nothing at all": with_ids(lambda ids: []),
}
METHODS = ["create", "open", "extend", "propose", "exit", "close", "shutdown"]


@pytest.mark.parametrize("oddity", [*METHODS, *NONSENSE, *RIGHT])
async def test_a_drafter_changes_no_stream_whatever_it_does(
    model: Path, oddity: str, caplog: pytest.LogCaptureFixture
) -> None:
    drafter = OddDrafter((NONSENSE | RIGHT).get(oddity, oddity))
    options = HarnessOptions(drafter=drafter, speculation=OBLIGING)
    prompts = [[5, 6, index] for index in range(3)]
    async with serving(model, ToyFactory(), samplers=[], options=options) as harness:
        found = await run_all(harness, prompts)
        assert harness.front.gateway.status.epoch == 1, "nothing was started again"
    assert [ids for ids, _ in found] == [said(prompt) for prompt in prompts]
    lines = [record.getMessage() for record in caplog.records if "nothing is drafted" in record.getMessage()]
    if oddity in RIGHT:
        assert (lines, drafter.num_asked > 1) == ([], True)
    elif oddity != "shutdown":
        (line,) = lines
        assert "'odd'" in line
        assert drafter.num_asked <= 3 + 2 * (oddity == "close"), "it is not asked again"


# --- policies --------------------------------------------------------------------------------------------------------


class OddBatching:
    name: ClassVar[str] = "odd"
    options: ClassVar[type[msgspec.Struct]] = NoOptions

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def handicap(self, command: Generate) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class OddAdmission(OddBatching):
    def admit(self, submission: Submission, load: Load) -> Any:
        return self.handicap(Generate(1, [], 0, 1))

    def finished(self, submission: Submission) -> None:
        raise ZeroDivisionError("odd")


@pytest.mark.parametrize("answer", [ValueError("odd"), SystemExit(3), None, "7", 1.5, -1, 10**30, float("nan")])
async def test_a_batching_policy_that_fails_is_replaced(
    model: Path, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(model, ToyFactory(), samplers=[], options=HarnessOptions(policy=OddBatching(answer))) as harness:
        found = await run_all(harness, [[1, 2], [3, 4]])
        assert harness.front.gateway.status.epoch == 1
    assert [ids for ids, _ in found] == [said([1, 2]), said([3, 4])]
    assert [each.getMessage().startswith("requests enter by priority") for each in caplog.records] == [True]


@pytest.mark.parametrize("answer", [ValueError("odd"), SystemExit(3), False, "no", None])
async def test_an_admission_policy_that_fails_is_replaced(
    model: Path, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(
        model, ToyFactory(), samplers=[], options=HarnessOptions(admission=OddAdmission(answer))
    ) as harness:
        found = await run_all(harness, [[1, 2], [3, 4]])
        assert harness.front.gateway.num_unfinished == 0
    assert [ids for ids, _ in found] == [said([1, 2]), said([3, 4])]
    assert [each.getMessage().startswith("requests are accepted by credits") for each in caplog.records] == [True]


async def test_a_refusal_is_no_failure(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = HarnessOptions(admission=OddAdmission(Overloaded("full")))
    async with serving(model, ToyFactory(), samplers=[], options=options) as harness:
        for _ in range(2):
            with pytest.raises(Overloaded):
                harness.gateway.submit(Submission([1], 3))
        assert harness.front.gateway.num_unfinished == 0
    assert caplog.records == []


# --- samplers, and the model's numbers -------------------------------------------------------------------------------


class PickyParams(msgspec.Struct, frozen=True):
    picky: str = ""


class Picky:
    """Raises where it is told to."""

    name: ClassVar[str] = "picky"
    order: ClassVar[int] = 20
    params: ClassVar[type[msgspec.Struct]] = PickyParams

    def __init__(self, max_slots: int) -> None:
        self._is_open = np.zeros(max_slots, np.bool_)

    def open(self, slot: int, params: msgspec.Struct, opening: Opening) -> bool:
        assert isinstance(params, PickyParams)
        if params.picky == "open":
            raise ValueError("this one I do not open")
        return params.picky == "apply"

    def apply(self, xp: ArrayNamespace, logits: Array, rows: LogitsRows) -> Array:
        raise ValueError("these I do not take")


async def ends(harness: Harness, submission: Submission) -> tuple[list[int], str, str]:
    (stream,) = harness.gateway.submit(submission)
    ids: list[int] = []
    async for delta in stream:
        ids += delta.ids
    return ids, delta.extras.code, delta.extras.reason


async def test_a_sampler_that_opens_no_slot_costs_its_request_alone(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found: list[tuple[list[int], str, str]] = []
    async with serving(model, ToyFactory(), samplers=[Picky]) as harness, anyio.create_task_group() as tasks:

        async def poison() -> None:
            poisoned = Submission([9], 5, Ask({"temperature": 0, "picky": "open"}))
            found.extend([await ends(harness, poisoned) for _ in range(20)])

        tasks.start_soon(poison)
        streams = await run_all(harness, [[1, 2], [3, 4]])
    assert [ids for ids, _ in streams] == [said([1, 2]), said([3, 4])]
    assert harness.front.gateway.status.epoch == 1, "nothing was started again"
    assert {(tuple(ids), code) for ids, code, _ in found} == {((), PluginFailed.code)}
    assert all("under request" in reason and "I do not open" not in reason for _, _, reason in found)
    assert any(f"sampler 'picky' ({__name__})" in str(each.exc_text) for each in caplog.records)


async def test_a_sampler_that_fails_at_a_step_costs_its_request_alone(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found: list[tuple[list[int], str, str]] = []
    slow = HarnessOptions(stage_options={"step-s": 0.002})
    async with serving(model, ToyFactory(), samplers=[Picky], options=slow) as harness:
        async with anyio.create_task_group() as tasks:

            async def poison() -> None:
                poisoned = Submission([9], 5, Ask({"temperature": 0, "picky": "apply"}))
                found.extend([await ends(harness, poisoned) for _ in range(6)])

            tasks.start_soon(poison)
            streams = await run_all(harness, [[index, 2] for index in range(6)])
        assert harness.front.gateway.status.epoch <= 1 + 2 * len(found)
        assert await harness.generate([4, 4], 5) == said([4, 4], 5), "the service stands"
    assert [ids for ids, _ in streams] == [said([index, 2]) for index in range(6)]
    assert {(tuple(ids), code) for ids, code, _ in found} == {((), "request_broke_engine")}
    assert not any("these I do not take" in reason for _, _, reason in found)
    assert f"sampler 'picky' ({__name__})" in caplog.text


class OverflowingFactory(ToyFactory):
    """A toy whose numbers overflow for a sequence that begins with 7."""

    def open(self, spec: Any, progress: Any) -> Any:
        return Overflowing(spec, progress)


class Overflowing(ToyStage):
    def step(self, batch: StepBatch) -> Any:
        output = super().step(batch)
        assert output.logits is not None
        at = 0
        for row, count in enumerate(batch.num_sampled):
            if count and batch.token_ids is not None and batch.token_ids[batch.offsets[row]] == 7:
                output.logits[at : at + count] = np.nan
            at += count
        return output


async def test_numbers_that_overflow_end_their_request_alone(model: Path) -> None:
    async with serving(model, OverflowingFactory(), samplers=[Picky]) as harness:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_all, harness, [[1, 2], [3, 4]])
            ids, code, reason = await ends(harness, Submission([7], 5, Ask({"temperature": 0})))
        assert (ids, code) == ([], PluginFailed.code)
        assert "overflowed" in reason
        assert harness.front.gateway.status.epoch == 1
        assert await harness.generate([1, 2], 5) == said([1, 2], 5)
