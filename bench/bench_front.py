"""What the front spends on a token: ids → text → one chunk, without and with the HTTP server.

CPU time of the thread that does it, so that clients and other loads do not count. Divide by `NUM_TOKENS` for one token;
`server_cpu_us_per_token` in the extra info of the last benchmark is the whole endpoint with its HTTP server.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

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
