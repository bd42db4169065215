"""Processes of a replica are killed, ended, aborted, stopped and left without memory at random under sixteen streams:
each stream reads what it reads undisturbed.

`HISTRIO_FAULTS=60` makes so many faults, at least, in replicas of one, two and three stages; `-s` shows the table.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import openai
import psutil
import pytest

from histrio.testing.launched import LaunchedServer
from histrio.testing.toy import write_toy_model
from histrio.testing.wait import eventually

NUM_FAULTS = int(os.environ.get("HISTRIO_FAULTS", "0"))
NUM_STREAMS = 16
NUM_TOKENS = 60
NO_MORE_BYTES = 100 * 10**6
"""Less than each process has."""
LETTERS = list(range(65, 91))
"""One token each: texts of them are tokens."""
SETTINGS = {
    "runtime.max-restarts": 10_000,
    "engine.drafter": "ngram",
    "engine.kv-block-size": 4,
    "stage.options": "{step-s = 0.01}",
}

pytestmark = [pytest.mark.slow_start, pytest.mark.timeout(120 + 20 * NUM_FAULTS)]


@dataclass(frozen=True)
class Kind:
    """A fault: a signal, and for how long the process is left so; without a signal its memory may not grow any more."""

    name: str
    signum: signal.Signals | None
    continues_after_s: float | None = None
    """None: never."""

    @property
    def must_be_noticed(self) -> bool:
        return self.signum is not None and self.continues_after_s is None


KINDS = [
    Kind("SIGKILL", signal.SIGKILL),
    Kind("SIGTERM", signal.SIGTERM),
    Kind("SIGABRT", signal.SIGABRT),
    Kind("SIGSTOP", signal.SIGSTOP),
    Kind("SIGSTOP, 0.4 s later SIGCONT", signal.SIGSTOP, 0.4),
    Kind("no more memory", None),
]


@dataclass
class Fault:
    """What was done, and what came of it."""

    kind: Kind
    victim: str
    state: str
    """Of the replica at that moment: up or down."""
    detected_s: float | None = None
    """Until the log said that the replica is down; None where it was already, or nothing was noticed."""

    @property
    def is_overlooked(self) -> bool:
        return self.kind.must_be_noticed and self.state == "up" and self.detected_s is None


@dataclass
class Streams:
    """What all clients read, and how long each waited at most between two pieces."""

    texts: dict[int, str] = field(default_factory=lambda: dict.fromkeys(range(NUM_STREAMS), ""))
    logprobs: dict[int, list[Any]] = field(default_factory=lambda: defaultdict(list))
    pauses_s: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    ends: dict[int, str] = field(default_factory=dict)

    @property
    def num_chars(self) -> int:
        return sum(map(len, self.texts.values()))

    @property
    def are_over(self) -> bool:
        return len(self.ends) == NUM_STREAMS

    def differences(self, other: Streams) -> list[int]:
        """Streams that are not token by token, number by number, and in their end the same."""
        mine: list[Mapping[int, object]] = [self.texts, self.logprobs, self.ends]
        others: list[Mapping[int, object]] = [other.texts, other.logprobs, other.ends]
        return [
            at for at in range(NUM_STREAMS) if any(a.get(at) != b.get(at) for a, b in zip(mine, others, strict=True))
        ]


def fields(index: int) -> dict[str, Any]:
    """Half are greedy, half are seeded; some with penalties, with a state of their own, or in a form."""
    extra: dict[str, Any] = {"ignore_eos": True, "allowed_token_ids": LETTERS}
    match index % 8:
        case 3:
            extra |= {"mirostat": 2, "mirostat_tau": 3.0}
        case 5:
            extra |= {"repetition_penalty": 1.2, "top_k": 9}
        case 6:
            extra = {"guided_regex": "([a-f]{1,3}; ?){30}"}
    return {
        "prompt": [(3 * index + at) % 250 for at in range(4 + 9 * (index % 5))],
        "seed": index,
        "temperature": [0.0, 0.9][index % 2],
        "logprobs": 1 if index % 4 < 2 else None,
        "max_tokens": NUM_TOKENS,
        "extra_body": extra,
    }


async def read_all(server: LaunchedServer, streams: Streams) -> None:
    """All side by side."""
    async with openai.AsyncOpenAI(
        base_url=f"{server.base_url}/v1", api_key="none", max_retries=0, timeout=300.0
    ) as client:

        async def one(index: int) -> None:
            last = time.monotonic()
            try:
                stream = await client.completions.create(model="toy", stream=True, **fields(index))
                async for chunk in stream:
                    now = time.monotonic()
                    streams.pauses_s[index] = max(streams.pauses_s[index], now - last)
                    last = now
                    for choice in chunk.choices:
                        streams.texts[index] += choice.text
                        if choice.logprobs is not None:
                            streams.logprobs[index] += choice.logprobs.token_logprobs or []
                        if choice.finish_reason:
                            end = choice.finish_reason
                streams.ends[index] = end
            except openai.OpenAIError as error:
                streams.ends[index] = f"error: {error}"

        async with anyio.create_task_group() as tasks:
            for index in range(NUM_STREAMS):
                tasks.start_soon(one, index)


class Injector:
    """Makes faults, one after the other, and watches the log for what is noticed of them."""

    def __init__(self, server: LaunchedServer, rng: random.Random) -> None:
        self._server = server
        self._rng = rng
        self.faults: list[Fault] = []

    async def run(self, kinds: list[Kind], streams: Streams, num_chars: int) -> None:
        """The first when a share of the text is read, further ones at any time after it."""
        share = self._rng.uniform(0.0, 0.6)
        while streams.num_chars < share * num_chars:  # noqa: ASYNC110 - several tasks write it
            await anyio.sleep(0.01)
        async with anyio.create_task_group() as tasks:
            for kind in kinds:
                fault, num_down = await self._begin(kind)
                tasks.start_soon(self._watch, fault, time.monotonic(), num_down)
                await anyio.sleep(self._rng.choice([0.0, 0.3, 1.5, 3.0]))

    async def _begin(self, kind: Kind) -> tuple[Fault, int]:
        """Hurts one of those that run; the fault, and how often the replica had been down before."""
        while True:
            num_down, num_up = self._count("replica 0 is down"), self._count("replica 0 is up")
            victims = [each for each in psutil.Process(self._server.process.pid).children() if _is_hurtable(each)]
            if victims:
                victim = self._rng.choice(victims)
                fault = Fault(kind, victim.name(), "up" if num_up > num_down else "down")
                with suppress(psutil.NoSuchProcess, ProcessLookupError):
                    await _hurt(victim, kind)
                    self.faults.append(fault)
                    return fault, num_down
            await anyio.sleep(0.02)

    async def _watch(self, fault: Fault, began: float, num_down: int) -> None:
        limit_s = 60.0 if fault.kind.must_be_noticed else 3.0
        while fault.state == "up" and time.monotonic() < began + limit_s:
            if self._count("replica 0 is down") > num_down:
                fault.detected_s = time.monotonic() - began
                return
            await anyio.sleep(0.03)

    def _count(self, words: str) -> int:
        return self._server.log.read_text(errors="replace").count(words)


async def _hurt(victim: psutil.Process, kind: Kind) -> None:
    if kind.signum is None:
        resource.prlimit(victim.pid, resource.RLIMIT_AS, (NO_MORE_BYTES, NO_MORE_BYTES))
        return
    victim.send_signal(kind.signum)
    if kind.continues_after_s is not None:
        await anyio.sleep(kind.continues_after_s)
        with suppress(psutil.NoSuchProcess):
            victim.send_signal(signal.SIGCONT)


def _is_hurtable(process: psutil.Process) -> bool:
    """Not the process that tries grammars, nor one that is stopped or dead already."""
    try:
        is_running = process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
        return is_running and process.name().startswith(("rt:engine", "rt:stage"))
    except psutil.NoSuchProcess:
        return False


@dataclass
class Account:
    """All rounds together."""

    faults: list[Fault] = field(default_factory=list)
    num_streams: int = 0
    num_identical: int = 0
    pauses_s: list[float] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """The table."""
        yield f"{'fault':<30} {'replica':<8} {'n':>3} {'noticed':>8} {'after s: median':>16} {'max':>6}"
        groups = defaultdict(list)
        for fault in self.faults:
            groups[fault.kind.name, fault.state].append(fault)
        for (name, state), group in sorted(groups.items()):
            seen = [fault.detected_s for fault in group if fault.detected_s is not None]
            times = f"{statistics.median(seen):>16.2f} {max(seen):>6.2f}" if seen else f"{'-':>16} {'-':>6}"
            yield f"{name:<30} {state:<8} {len(group):>3} {len(seen):>8} {times}"
        yield f"{len(self.faults)} faults, {self.num_identical} of {self.num_streams} streams identical"
        median_s, most_s = statistics.median(self.pauses_s), max(self.pauses_s)
        yield f"longest pause of a stream: median {median_s:.2f} s, max {most_s:.2f} s"


def launch(model: Path, num_stages: int, log: Path) -> LaunchedServer:
    settings = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    return LaunchedServer("--model", str(model), "--backend", "toy", f"--stages={num_stages}", *settings, log=log)


def play(server: LaunchedServer, rounds: list[list[Kind]], rng: random.Random, account: Account) -> None:
    """Undisturbed once, and then a round for each list of faults."""
    undisturbed = Streams()
    anyio.run(read_all, server, undisturbed)
    assert set(undisturbed.ends.values()) == {"length"}
    assert len(set(undisturbed.texts.values())) == NUM_STREAMS, "a control: others read other texts"
    for kinds in rounds:
        streams, injector = Streams(), Injector(server, rng)

        async def disturbed(kinds: list[Kind] = kinds, streams: Streams = streams, by: Injector = injector) -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read_all, server, streams)
                tasks.start_soon(by.run, kinds, streams, undisturbed.num_chars)

        anyio.run(disturbed)
        differences = streams.differences(undisturbed)
        account.faults += injector.faults
        account.num_streams += NUM_STREAMS
        account.num_identical += NUM_STREAMS - len(differences)
        account.pauses_s += streams.pauses_s.values()
        assert differences == [], {at: (streams.ends.get(at), streams.texts[at]) for at in differences}
        eventually(lambda: server.health() == 200, 60.0)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of other processes are Linux's")
def test_faults_change_no_stream(tmp_path: Path) -> None:
    """At most two faults a round: by three, a request on trial may look as if it were at fault."""
    model, rng, account = write_toy_model(tmp_path / "toy"), random.Random(0), Account()
    kinds = KINDS * -(-NUM_FAULTS // len(KINDS)) if NUM_FAULTS else [KINDS[0], KINDS[-1]]
    rng.shuffle(kinds)
    for num_stages in (1, 2, 3) if NUM_FAULTS else (2,):
        mine = kinds[num_stages - 1 :: 3] if NUM_FAULTS else kinds
        rounds = []
        while mine:
            num_together = rng.choice([1, 1, 2]) if NUM_FAULTS else 2
            rounds.append(mine[:num_together])
            mine = mine[num_together:]
        with launch(model, num_stages, tmp_path / f"log{num_stages}.txt") as server:
            try:
                play(server, rounds, rng, account)
            finally:
                print(*account.lines(), sep="\n")
    assert [fault for fault in account.faults if fault.is_overlooked] == []
    assert any(fault.detected_s for fault in account.faults), "a control: the replica was hurt"
