"""What the front spends on a token and on a request: alone, with its HTTP server, and launched before a toy engine.

CPU time of the thread or process that does it, so that clients and other loads do not count. Divide by `NUM_TOKENS` for
one token; `server_cpu_us_per_token` in the extra info is the whole endpoint with its HTTP server. Of the launched
server the numbers stand below the table of times.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from amounts import amount
from pytest_benchmark.fixture import BenchmarkFixture
from raw_clients import Connections, chat

from histrio.testing.launched import LaunchedServer
from histrio.testing.toy import write_toy_model
from histrio_api.answer.choice import Choice
from histrio_api.answer.generation import run_choices, start_generation
from histrio_api.forms.chat import ChatAnswer
from histrio_api.forms.completions import prepare_completion
from histrio_api.request.received import Received
from histrio_api.schemas.completions import CompletionRequest
from histrio_api.service.service import open_edge
from histrio_api.shared.edge import Edge
from histrio_api.shared.settings import ApiSettings
from histrio_api.testing import Script, ScriptedGateway, running_endpoint, saying, served_model, write_tokenizer
from histrio_api.text.stops import StopStrings

NUM_TOKENS = 256
NUM_CLIENTS = amount(64, once=4)
NUM_REQUESTS = amount(2000, once=8)
NUM_STREAMED = amount(200, once=4)
"""Tokens of each stream: four seconds of them."""
STEP_S = 0.012
"""Of a device; with what the toy itself takes streams have up to 50 tokens a second."""
Note = Callable[[str], None]
TEXT = "The quick brown fox tells the actor what happened; nobody waits for an answer. Zürich, 日本語 🙂. "

pytestmark = pytest.mark.benchmark(timer=time.thread_time)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench")
    write_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def edge(folder: Path) -> Edge:
    gateway = ScriptedGateway(served_model(folder, max_sequence_length=4096), lambda submission, choice: [])
    return open_edge(gateway, ApiSettings())


def script_of(edge: Edge) -> Script:
    ids = edge.tokenizer.encode(TEXT * 20, add_special=False)[: NUM_TOKENS - 1]
    assert len(ids) == NUM_TOKENS - 1
    return saying(ids)


@pytest.mark.parametrize("stop", [[], ["###", "\n\nUser:"]], ids=["plain", "stops"])
def test_ids_to_chunks(benchmark: BenchmarkFixture, edge: Edge, stop: list[str]) -> None:
    """Everything of a stream but HTTP: read, decode, match stop strings, build the chunk."""
    script = script_of(edge)
    assert isinstance(edge.gateway, ScriptedGateway)
    edge.gateway.script = lambda submission, choice: script
    request = CompletionRequest(model="test/scripted", prompt="Hello", stop=stop)
    loop = asyncio.new_event_loop()

    def run() -> int:
        return loop.run_until_complete(_chunks(edge, request))

    num_bytes = benchmark(run)
    loop.close()
    assert num_bytes > NUM_TOKENS * 100


async def _chunks(edge: Edge, request: CompletionRequest) -> int:
    prepared = prepare_completion(edge, Received(request, {}, time.perf_counter()))
    generation = start_generation(edge, prepared, "cmpl-")
    answer = ChatAnswer(edge, prepared, generation)
    num_bytes = 0

    async def show(choice: Choice, text: str) -> None:
        nonlocal num_bytes
        num_bytes += len(answer.text(choice, text))

    await run_choices(generation, show)
    generation.close()
    return num_bytes


def test_stop_strings_alone(benchmark: BenchmarkFixture) -> None:
    pieces = (TEXT * 20).split(" ")[:NUM_TOKENS]

    def run() -> str:
        stops = StopStrings(["###", "\n\nUser:"])
        return "".join([stops.push(piece) for piece in pieces])

    assert benchmark(run) == "".join(pieces)


@pytest.mark.parametrize("num_streams", [1, 16])
def test_a_stream_through_the_server(benchmark: BenchmarkFixture, folder: Path, edge: Edge, num_streams: int) -> None:
    """The endpoint's own thread, from the request's bytes in to the last chunk out; the loop turns after each token."""
    script = script_of(edge)
    gateway = ScriptedGateway(served_model(folder, max_sequence_length=4096), lambda submission, choice: script)
    gateway.yields_between_deltas = True
    with running_endpoint(gateway) as url:
        clock = _cpu_clock_of("endpoint")
        spent: list[float] = []

        def run() -> None:
            before = time.clock_gettime(clock)
            _stream_all(url, num_streams)
            spent.append(time.clock_gettime(clock) - before)

        benchmark.pedantic(run, rounds=12, warmup_rounds=3)
    benchmark.extra_info["server_cpu_us_per_token"] = round(min(spent) / (NUM_TOKENS * num_streams) * 1e6, 2)
    assert len(gateway.submissions) == len(spent) * num_streams


def _cpu_clock_of(name: str) -> int:
    (thread,) = [thread for thread in threading.enumerate() if thread.name == name]
    assert thread.ident is not None
    return time.pthread_getcpuclockid(thread.ident)


def _stream_all(url: str, num_streams: int) -> None:
    host = url.removeprefix("http://")
    body = json.dumps({"model": "test/scripted", "messages": [{"role": "user", "content": "Hi"}], "stream": True})
    connections = [http.client.HTTPConnection(host) for _ in range(num_streams)]
    for connection in connections:
        connection.request("POST", "/v1/chat/completions", body)
    for connection in connections:
        assert connection.getresponse().read().endswith(b"data: [DONE]\n\n")
        connection.close()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_model(tmp_path_factory.mktemp("models") / "toy", max_sequence_length=4096)


def launched(model: Path, name: str, *settings: str) -> LaunchedServer:
    arguments = [
        "--model",
        str(model),
        "--backend",
        "toy",
        "--log-level",
        "warning",
        "--set",
        "engine.max-batch-size=64",
    ]
    return LaunchedServer(*arguments, *(part for each in settings for part in ("--set", each)), log=model / name)


@pytest.fixture(scope="module")
def server(toy: Path) -> Iterator[LaunchedServer]:
    """With a device that takes no time."""
    with launched(toy, "log.txt") as running:
        yield running


class Spent:
    """CPU microseconds of a launched server's front and engine, since it was made."""

    def __init__(self, server: LaunchedServer) -> None:
        self._front = psutil.Process(server.process.pid)
        self._before = self._now()

    def of_each(self, num: int) -> tuple[float, float]:
        """Of one request, or token, of so many."""
        front, engine = (after - before for after, before in zip(self._now(), self._before, strict=True))
        return front / num * 1e6, engine / num * 1e6

    def _now(self) -> tuple[float, float]:
        times = [sum(each.cpu_times()[:2]) for each in (self._front, *self._front.children())]
        return times[0], sum(times[1:])


def test_short_requests(benchmark: BenchmarkFixture, server: LaunchedServer, note: Note) -> None:
    """Chats of one token from many clients at a time, which ask again as soon as they are answered."""
    request = chat("Hello", max_tokens=1, ignore_eos=True)
    spent: list[tuple[float, float]] = []
    with Connections(server.port, NUM_CLIENTS) as clients:

        def run() -> None:
            before = Spent(server)
            clients.ask(request, NUM_REQUESTS)
            spent.append(before.of_each(NUM_REQUESTS))

        benchmark.pedantic(run, rounds=amount(5, once=1), warmup_rounds=amount(1, once=0))
    front_us, engine_us = map(statistics.median, zip(*spent, strict=True))
    note(
        f"{front_us:.0f} us of the front and {engine_us:.0f} us of the engine for each request, "
        f"{1e6 / max(front_us + engine_us, 1):.0f} requests/s per core"
    )


def test_first_tokens_of_a_burst(benchmark: BenchmarkFixture, server: LaunchedServer, note: Note) -> None:
    """Streams that begin at once, from sending a request to its last byte, which comes with the first token."""
    request = chat("Hello", max_tokens=1, ignore_eos=True, stream=True)
    waits: list[float] = []
    with Connections(server.port, NUM_CLIENTS) as clients:

        def run() -> None:
            waits.extend(each.pieces[-1] - each.begun for each in clients.stream_once(request))

        benchmark.pedantic(run, rounds=amount(20, once=1), warmup_rounds=amount(2, once=0))
    assert len(waits) >= NUM_CLIENTS
    note(f"the first token of {NUM_CLIENTS} streams after {1e3 * statistics.median(waits):.1f} ms, the median of all")


def test_streams_at_50_tokens_a_second(benchmark: BenchmarkFixture, toy: Path, note: Note) -> None:
    """The share of a core that the front takes of streams on a device that takes its time."""
    request = chat("Hello", max_tokens=NUM_STREAMED, ignore_eos=True, stream=True)
    with launched(toy, "slow.txt", f"stage.options={{step-s = {STEP_S}}}") as slow:
        with Connections(slow.port, NUM_CLIENTS) as clients:
            clients.stream_once(request)
            before, begun = Spent(slow), time.perf_counter()
            benchmark.pedantic(clients.stream_once, args=[request], rounds=amount(2, once=1), warmup_rounds=0)
            seconds = time.perf_counter() - begun
        num_tokens = NUM_STREAMED * NUM_CLIENTS * amount(2, once=1)
        front_us, _ = before.of_each(num_tokens)
    per_stream = num_tokens / NUM_CLIENTS / seconds
    note(
        f"{NUM_CLIENTS} streams of {per_stream:.1f} tokens/s: {front_us:.1f} us of the front for each token, "
        f"{front_us * NUM_CLIENTS * 50 / 1e4:.1f} % of a core at 50 tokens/s"
    )
