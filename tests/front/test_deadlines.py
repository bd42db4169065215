"""A request whose time is over ends with an error, whether it runs or waits, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from histrio.contracts.gateway import Delta, Submission, TokenStream
from histrio.messages import Ask, RequestState
from histrio.testing.harness import HarnessOptions, serving
from histrio.testing.toy import ToyFactory, toy_continuation, write_toy_model
from histrio.testing.wait import eventually_async
from histrio_samplers.temperature import Temperature

pytestmark = pytest.mark.anyio

GREEDY: dict[str, Any] = {"temperature": 0.0}
NO_TIME_S = 1e-9
NUM_LAYERS = 3


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_toy_model(tmp_path / "toy", num_layers=NUM_LAYERS)


async def read(stream: TokenStream, on_first: Callable[[], None] = lambda: None) -> tuple[list[int], Delta]:
    """The tokens, and the last delta; `on_first` is called when some tokens have come."""
    deltas: list[Delta] = []
    async for delta in stream:
        deltas.append(delta)
        if len(deltas) == 1:
            on_first()
    return [token for delta in deltas for token in delta.ids], deltas[-1]


@pytest.mark.parametrize("cuts", [[], [1]])
async def test_those_that_run_and_those_that_wait_end_and_free_their_blocks(model: Path, cuts: list[int]) -> None:
    options = HarnessOptions(max_batch_size=2, stage_options={"step-s": 0.002})
    async with serving(model, ToyFactory(), samplers=[Temperature], cuts=cuts, options=options) as harness:
        gauges = harness.gateway.status.gauges
        late = Submission([1, 2, 3], 400, Ask(GREEDY), timeout_s=NO_TIME_S)
        (running,) = harness.gateway.submit(late)
        (kept,) = harness.gateway.submit(Submission([7, 7], 40, Ask(GREEDY)))
        (waiting,) = harness.gateway.submit(late)
        ids, last = await read(kept, harness.front.gateway.expire)
        assert last.state is RequestState.FINISHED_MAX_LENGTH, "a control: a request with time left goes on"
        assert ids == toy_continuation([7, 7], 40, num_layers=NUM_LAYERS, vocab_size=258)
        assert harness.front.gateway.num_unfinished == 0
        ended = [(await read(stream))[1] for stream in (running, waiting)]
        assert [(delta.state, delta.extras.code) for delta in ended] == [(RequestState.ERROR, "request_timeout")] * 2
        await eventually_async(
            lambda: [gauges.get(name) for name in ("running_sequences", "waiting_sequences", "used_blocks")] == [0] * 3
        )


async def test_a_request_without_a_limit_of_its_own_has_the_topologys(model: Path) -> None:
    options = HarnessOptions(stage_options={"step-s": 0.002})
    async with serving(model, ToyFactory(), samplers=[Temperature], options=options) as harness:
        (stream,) = harness.gateway.submit(Submission([1, 2, 3], 20, Ask(GREEDY)))
        assert (await read(stream, harness.front.gateway.expire))[1].state is RequestState.FINISHED_MAX_LENGTH


async def test_the_fronts_timer_looks_for_them_by_itself(model: Path) -> None:
    options = HarnessOptions(stage_options={"step-s": 0.005})
    async with serving(model, ToyFactory(), samplers=[Temperature], options=options) as harness:
        (stream,) = harness.gateway.submit(Submission([1, 2, 3], 480, Ask(GREEDY), timeout_s=NO_TIME_S))
        _ids, last = await read(stream)
    assert (last.state, last.extras.code) == (RequestState.ERROR, "request_timeout")
