"""The demo model on torch, served as `make run` serves it: load, memory, and a killed engine."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import anyio
import openai
import psutil
import pytest

from histrio.testing.launched import LaunchedServer
from histrio.testing.wait import eventually

pytestmark = [pytest.mark.slow_start, pytest.mark.timeout(180)]

QUESTIONS = ["What is histrio?", "Count from 1 to 20.", "Tell me a short story.", "Name five fruits."]
NUM_STREAMS = 16
NUM_TOKENS = 12


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LaunchedServer]:
    with LaunchedServer("--model", "demo", log=tmp_path_factory.mktemp("demo") / "log.txt") as launched:
        yield launched


def engine(server: LaunchedServer) -> psutil.Process:
    children = psutil.Process(server.process.pid).children()
    (child,) = [each for each in children if each.name().startswith("rt:engine")]
    return child


Disturb = Callable[[anyio.Event], Coroutine[Any, Any, None]]


async def ask(client: openai.AsyncOpenAI, index: int, num_tokens: int, on_piece: Callable[[], None]) -> str:
    """One stream: greedy for even indices, seeded sampling for odd ones."""
    stream = await client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": QUESTIONS[index % len(QUESTIONS)]}],
        max_tokens=num_tokens,
        stream=True,
        seed=index,
        temperature=0.9 if index % 2 else 0.0,
        extra_body={"ignore_eos": True},
    )
    pieces = []
    async for chunk in stream:
        pieces.append(chunk.choices[0].delta.content or "")
        on_piece()
    return "".join(pieces)


async def ask_all(server: LaunchedServer, num_streams: int, num_tokens: int, disturb: Disturb) -> list[str]:
    """All streams at once; `disturb` runs beside them and gets an event that is set once every stream has begun."""
    texts: dict[int, str] = {}
    begun: set[int] = set()
    all_begun = anyio.Event()
    limits = openai.DefaultAsyncHttpxClient(limits=openai.DEFAULT_CONNECTION_LIMITS, timeout=120.0)
    async with openai.AsyncOpenAI(
        base_url=f"{server.base_url}/v1", api_key="none", max_retries=0, http_client=limits
    ) as client:

        async def one(index: int) -> None:
            def on_piece() -> None:
                begun.add(index)
                if len(begun) == num_streams:
                    all_begun.set()

            texts[index] = await ask(client, index, num_tokens, on_piece)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(disturb, all_begun)
            for index in range(num_streams):
                tasks.start_soon(one, index)
    return [texts[index] for index in range(num_streams)]


async def nothing(_begun: anyio.Event) -> None:
    """No disturbance."""


def resident_bytes(server: LaunchedServer) -> int:
    """Of the front and the engine together."""
    front = psutil.Process(server.process.pid)
    return sum(process.memory_info().rss for process in [front, *front.children()])


def settled_bytes(server: LaunchedServer) -> int:
    """The least of a second: an engine that has become idle gives its scattered heap back."""
    end = time.monotonic() + 1.0
    readings: list[int] = []

    def is_over() -> bool:
        readings.append(resident_bytes(server))
        return time.monotonic() > end

    eventually(is_over)
    return min(readings)


@pytest.mark.parametrize("num_users", [64, pytest.param(256, marks=pytest.mark.thorough)])
def test_many_users_at_once_are_all_served_and_leave_nothing_behind(server: LaunchedServer, num_users: int) -> None:
    anyio.run(ask_all, server, num_users, NUM_TOKENS, nothing)
    growth = []
    # The libraries compile a kernel for each number of rows they meet; a round that brings no new ones must come.
    for _round in range(8):
        before = settled_bytes(server)
        texts = anyio.run(ask_all, server, num_users, NUM_TOKENS, nothing)
        assert len(texts) == num_users
        assert all(texts)
        assert texts[0] == texts[4 * len(QUESTIONS)], "greedy answers to one question are equal, whatever else is asked"
        growth.append(settled_bytes(server) / before)
        if len(growth) > 1 and growth[-1] <= 1.05:
            break
    assert growth[-1] <= 1.05, growth
    assert "failed" not in server.log.read_text(), "block pool and scheduler are checked whenever the engine is idle"


@pytest.mark.thorough  # the same with forms is in test_structured_output_server.py
def test_streams_survive_the_killed_engine_with_the_same_tokens(server: LaunchedServer) -> None:
    undisturbed = anyio.run(ask_all, server, NUM_STREAMS, 100, nothing)
    victim = engine(server)

    async def kill(begun: anyio.Event) -> None:
        await begun.wait()
        victim.send_signal(signal.SIGKILL)

    disturbed = anyio.run(ask_all, server, NUM_STREAMS, 100, kill)
    assert server.process.poll() is None, "the front lives"
    assert engine(server).pid != victim.pid
    assert disturbed == undisturbed
    assert len(set(disturbed[1::2])) > 1, "a control: seeds make a difference"
