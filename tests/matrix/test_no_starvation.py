"""Every waiting request gets its turn, although requests of higher priority keep coming, with few blocks and many."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import anyio
import msgspec
import pytest

from histrio.contracts.gateway import Submission
from histrio.contracts.policy import BatchingPolicy, NoOptions
from histrio.messages import Ask, Generate
from histrio.testing.harness import Harness, HarnessOptions, serving
from histrio.testing.toy import ToyFactory, toy_continuation, write_toy_model
from histrio.testing.wait import eventually_async
from tests.matrix.crowds import ALL_SAMPLERS

NUM_LAYERS, VOCAB = 2, 258
MAX_SLOTS, NUM_CLIENTS = 3, 6
HANDICAP = 32
"""Later requests of priority 0 that may enter before one of priority 1: twice as many before one of priority 2."""
LOW = [9, 8, 7, 6, 5]


class Endless:
    """A policy that never lets a lower priority enter before a higher one: the control."""

    name: ClassVar[str] = "endless"
    options: ClassVar[type[msgspec.Struct]] = NoOptions

    def handicap(self, command: Generate) -> int:
        """More than will ever come."""
        return 10**9 * command.ask.priority


async def num_overtaking(model: Path, options: HarnessOptions, priority: int, most: int) -> tuple[int, list[int]]:
    """How many requests of priority 0 ended before one of this priority, which came when all slots were taken; and
    its tokens. Clients of priority 0 ask again as soon as they are answered, until it has ended or `most` were."""
    num_ended = 0
    tokens: list[int] = []
    async with serving(model, ToyFactory(), samplers=ALL_SAMPLERS, options=options) as harness:
        has_ended = anyio.Event()

        async def client(number: int) -> None:
            nonlocal num_ended
            while not has_ended.is_set() and num_ended < most:
                await harness.generate([number, 1 + num_ended % 200, 3, 4], 6)
                num_ended += 1

        async def patient() -> None:
            tokens.extend(await _low(harness, priority))
            has_ended.set()

        async with anyio.create_task_group() as tasks:
            for number in range(NUM_CLIENTS):
                tasks.start_soon(client, number)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(patient)
    return num_ended, tokens


async def _low(harness: Harness, priority: int) -> list[int]:
    submission = Submission(LOW, 20, Ask({"temperature": 0.0}, priority=priority))
    tokens, _state = await harness.run(submission)
    return tokens


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_toy_model(tmp_path / "toy", num_layers=NUM_LAYERS)


def options(policy: Callable[[], BatchingPolicy] | None = None, num_blocks: int = 64) -> HarnessOptions:
    return HarnessOptions(
        max_batch_size=MAX_SLOTS,
        num_cache_blocks=num_blocks,
        max_sequence_length=28,
        policy=policy() if policy else None,
    )


class Even:
    """A policy that lets as many overtake as came before: all have waited for equally long."""

    name: ClassVar[str] = "even"
    options: ClassVar[type[msgspec.Struct]] = NoOptions

    def __init__(self) -> None:
        self._num_asked = 0

    def handicap(self, command: Generate) -> int:
        """Ten at first, one less each time."""
        self._num_asked += 1
        return max(10 - self._num_asked, 0)


def test_two_that_are_equal_do_not_wait_for_each_other(model: Path) -> None:
    async def both() -> tuple[dict[int, list[int]], float]:
        tokens: dict[int, list[int]] = {}
        async with serving(model, ToyFactory(), samplers=ALL_SAMPLERS, options=options(Even, num_blocks=8)) as harness:

            async def one(number: int) -> None:
                tokens[number] = await harness.generate([number, 2, 3, 4], 24)

            async with anyio.create_task_group() as tasks:
                for number in range(3):
                    tasks.start_soon(one, number)
            status = harness.gateway.status
            await eventually_async(lambda: status.gauges.get("running_sequences") == 0)
            return tokens, status.counters["preemptions_total"]

    tokens, num_preemptions = anyio.run(both)
    assert num_preemptions > 0
    for number in range(3):
        assert tokens[number] == toy_continuation([number, 2, 3, 4], 24, num_layers=NUM_LAYERS, vocab_size=VOCAB)


@pytest.mark.parametrize("num_blocks", [8, 64])
@pytest.mark.parametrize("priority", [0, 1, 2])
def test_a_lower_priority_is_overtaken_by_so_many_and_no_more(model: Path, priority: int, num_blocks: int) -> None:
    bound = HANDICAP * priority + 4 * NUM_CLIENTS + 4 * 20
    overtaking, tokens = anyio.run(num_overtaking, model, options(num_blocks=num_blocks), priority, 10 * bound)
    assert HANDICAP * priority - NUM_CLIENTS <= overtaking <= bound
    assert tokens == toy_continuation(LOW, 20, num_layers=NUM_LAYERS, vocab_size=VOCAB)


def test_without_a_bound_it_waits_as_long_as_others_come(model: Path) -> None:
    overtaking, tokens = anyio.run(num_overtaking, model, options(Endless), 1, 400)
    assert overtaking >= 400
    assert len(tokens) == 20
