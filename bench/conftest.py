"""What benchmarks of a served model share: streams with the time of each piece, and two ways compared in turns."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from histrio.testing.launched import LaunchedServer
from histrio.testing.models import write_tokenizer

# Engine and clients share the cores: waiting OpenMP threads sleep, here and in every child.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Helpers of this folder are imported by name.
sys.path.insert(0, str(Path(__file__).parent))

from amounts import VOCAB_SIZE, Extent, amount, choose_extent, is_once

Way = Callable[[], Sequence[float]]
"""Does something once; seconds of its parts, such as the time to the first token of each request."""

_REPORT = pytest.StashKey[list[str]]()


@dataclass(slots=True)
class TimedStream:
    """One streamed completion."""

    begun: float = 0.0
    pieces: list[float] = field(default_factory=list)
    """When each piece of text came."""
    num_tokens: int = 0
    text: str = ""

    @property
    def first_token_s(self) -> float:
        """Seconds from sending the request to the first piece."""
        return self.pieces[0] - self.begun

    @property
    def seconds(self) -> float:
        """From sending the request to the last piece."""
        return self.pieces[-1] - self.begun

    def num_tokens_until(self, end: float) -> float:
        """Tokens that had come by then, if all pieces are of about one length."""
        return self.num_tokens * sum(piece <= end for piece in self.pieces) / len(self.pieces)

    def gaps_between(self, begin: float, end: float) -> list[float]:
        """Seconds from one piece to the next, of those that came in this time."""
        pieces = [piece for piece in self.pieces if begin <= piece <= end]
        return [later - earlier for earlier, later in pairwise(pieces)]


async def _stream(
    session: aiohttp.ClientSession, server: LaunchedServer, body: dict[str, Any], timed: TimedStream
) -> None:
    options = {"stream": True, "temperature": 0, "stream_options": {"include_usage": True}}
    path = "chat/completions" if "messages" in body else "completions"
    timed.begun = time.perf_counter()
    async with session.post(f"{server.base_url}/v1/{path}", json=options | body) as reply:
        assert reply.status == 200, await reply.text()
        async for line in reply.content:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if event.get("usage"):
                timed.num_tokens = event["usage"]["completion_tokens"]
            for choice in event["choices"]:
                text = choice.get("text") or choice.get("delta", {}).get("content")
                if text:
                    timed.pieces.append(time.perf_counter())
                    timed.text += text
    assert timed.pieces, "the answer was empty"


class _Load:
    """One round of requests to one server."""

    def __init__(
        self, session: aiohttp.ClientSession, server: LaunchedServer, bodies: Sequence[dict[str, Any]]
    ) -> None:
        self._session = session
        self._server = server
        self._bodies = bodies
        self.streams = [TimedStream() for _ in bodies]

    async def all_at_once(self, num_users: int) -> None:
        """So many users, each of whom sends the next request as soon as it was answered."""
        left = iter(range(len(self._bodies)))

        async def user() -> None:
            for index in left:
                await self._one(index)

        await asyncio.gather(*(user() for _ in range(num_users)))

    async def last_one_after(self, seconds: float) -> None:
        """All but the last at once, and that one so much later; when it was answered the others are broken off."""
        others = [asyncio.create_task(self._one(index)) for index in range(len(self._bodies) - 1)]
        await asyncio.sleep(seconds)
        await self._one(len(self._bodies) - 1)
        for task in others:
            task.cancel()
        ends = await asyncio.gather(*others, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends

    async def _one(self, index: int) -> None:
        async with self._session.get(f"{self._server.base_url}/v1/models") as reply:
            body = {"model": (await reply.json())["data"][0]["id"]} | self._bodies[index]
        await _stream(self._session, self._server, body, self.streams[index])


async def _stream_all(
    server: LaunchedServer, bodies: Sequence[dict[str, Any]], num_users: int | None, last_after_s: float | None
) -> list[TimedStream]:
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        load = _Load(session, server, bodies)
        if last_after_s is None:
            await load.all_at_once(num_users or len(bodies))
        else:
            await load.last_one_after(last_after_s)
        return load.streams


@pytest.fixture(scope="session")
def stream_all() -> Callable[..., list[TimedStream]]:
    """Sends requests to a server and waits for all of them: prompts that are strings or ids, or chats.

    All at once; or by `num_users`, each of whom sends one after another; or the last one `last_after_s` later than the
    others, which are broken off when it has been answered.
    """
    return lambda server, bodies, num_users=None, last_after_s=None: asyncio.run(
        _stream_all(server, bodies, num_users, last_after_s)
    )


@pytest.fixture(scope="session")
def counter() -> Callable[[LaunchedServer, str], int]:
    """The value of one counter of /metrics."""

    def read(server: LaunchedServer, name: str) -> int:
        with urllib.request.urlopen(f"{server.base_url}/metrics", timeout=5.0) as reply:
            lines = reply.read().decode().splitlines()
        return next((int(float(line.split()[1])) for line in lines if line.startswith(f"histrio_{name} ")), 0)

    return read


@dataclass(slots=True)
class _Measured:
    """All rounds of one way."""

    seconds: list[Sequence[float]] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def measure(self, way: Way) -> None:
        before = _cpu_s()
        self.seconds.append(way())
        self.cpu_s.append(_cpu_s() - before)

    @property
    def means(self) -> list[float]:
        return [statistics.fmean(each) for each in self.seconds]

    @property
    def p95(self) -> float:
        values = sorted(value for each in self.seconds for value in each)
        return values[min(round(0.95 * len(values)), len(values) - 1)]


@dataclass(frozen=True, slots=True)
class Compared:
    """How many times as fast one way was as the other."""

    way: _Measured
    other: _Measured

    @property
    def ratio(self) -> float:
        """Of the medians of all rounds."""
        return statistics.median(self.other.means) / statistics.median(self.way.means)

    @property
    def _pairs(self) -> list[float]:
        """The ratio of each round, the lowest first."""
        return sorted(slow / fast for slow, fast in zip(self.other.means, self.way.means, strict=True))

    @property
    def ratio_of_pairs(self) -> float:
        """The mean of the middle half of the rounds' ratios: what disturbed both ways of a round does not count."""
        cut = len(self._pairs) // 4
        return statistics.fmean(self._pairs[cut : len(self._pairs) - cut])

    @property
    def p95_ratio(self) -> float:
        """Of the slowest parts."""
        return self.other.p95 / self.way.p95

    @property
    def cpu_ratio(self) -> float:
        """Of the processor time of the servers, which a busy machine disturbs less."""
        return statistics.median(self.other.cpu_s) / statistics.median(self.way.cpu_s)

    def assert_least(self, **ratios: float) -> None:
        """Raise AssertionError where a ratio, such as `cpu_ratio`, is less; never where nothing is measured."""
        for name, least in ratios.items():
            assert is_once() or getattr(self, name) >= least, f"{name} is {getattr(self, name):.3f}, not {least}"

    def info(self) -> dict[str, float]:
        """The ratios, and what they are made of."""
        found = {
            "ratio": self.ratio,
            "ratio_of_pairs": self.ratio_of_pairs,
            "ratio_min": self._pairs[0],
            "ratio_max": self._pairs[-1],
            "ratio_of_best": min(self.other.means) / min(self.way.means),
            "cpu_ratio": self.cpu_ratio,
            "median_ms": 1e3 * statistics.median(self.way.means),
            "other_median_ms": 1e3 * statistics.median(self.other.means),
            "p95_ms": 1e3 * self.way.p95,
            "other_p95_ms": 1e3 * self.other.p95,
        }
        return {name: round(value, 3) for name, value in found.items()}


@pytest.fixture
def in_turns(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Callable[[Way, Way, int], Compared]:
    """Measures `way` and `other` one after the other, again and again, so that what disturbs meets both.

    The ratios stand at the end of the output, and in `extra_info`.
    """

    def compare(way: Way, other: Way, rounds: int) -> Compared:
        compared = Compared(_Measured(), _Measured())
        if not is_once():
            way(), other()  # what is compiled and allocated once
        benchmark.pedantic(
            lambda: compared.way.measure(way), setup=lambda: compared.other.measure(other), rounds=rounds
        )
        if is_once():
            return compared

        info = compared.info()
        benchmark.extra_info |= info
        _note(request, ", ".join(f"{name} {value}" for name, value in info.items()))
        return compared

    return compare


@pytest.fixture(scope="session")
def qwen3_06b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the shape of Qwen3-0.6B, 1.2 GB; of two small layers where nothing is measured."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=amount(1024, once=64),
        intermediate_size=amount(3072, once=64),
        num_hidden_layers=amount(28, once=2),
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40_960,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    folder = tmp_path_factory.mktemp("qwen3-0.6b")
    model.save_pretrained(folder)
    write_tokenizer(folder)
    _give_text_to_all_tokens(folder / "tokenizer.json")
    return folder


def _give_text_to_all_tokens(file: Path) -> None:
    """A random model says any of them."""
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    first = len(vocabulary) + len(tokenizer["added_tokens"])
    vocabulary |= {f"t{index} ": index for index in range(first, VOCAB_SIZE)}
    file.write_text(json.dumps(tokenizer), encoding="utf-8")


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A line for the end of the output."""
    return lambda text: _note(request, text)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--long` takes many minutes for what differs by some percent only."""
    parser.addoption("--long", action="store_true", help="more rounds and cases, for differences of some percent")


def pytest_configure(config: pytest.Config) -> None:
    """Say how much the benchmarks do before they are imported."""
    extent = Extent.LONG if config.getoption("long") else Extent.USUAL
    choose_extent(Extent.ONCE if config.getoption("benchmark_disable") else extent)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The ratios, below the table of times."""
    lines = config.stash.get(_REPORT, [])
    if lines:
        terminalreporter.section("two ways in turns")
        for line in lines:
            terminalreporter.write_line(line)


def _note(request: pytest.FixtureRequest, text: str) -> None:
    request.config.stash.setdefault(_REPORT, []).append(f"{request.node.name}: {text}")


def _cpu_s() -> float:
    """Processor time of the launched servers; where there are none, of this process."""
    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(each.user + each.system for each in times) if times else time.process_time()
