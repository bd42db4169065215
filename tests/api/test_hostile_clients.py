"""A server survives its clients: malformed requests, clients that vanish, many streams, and none holds up the loop.

`HISTRIO_FUZZ=20000` sends so many malformed requests in place of the few of every run; `--thorough` has more of the
others.
"""

from __future__ import annotations

import gc
import os
import random
import re
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import psutil
import pytest

from tests.api.hostile import Answer, HostileServer, hostile_server, malformed, send

NUM_MALFORMED = int(os.environ.get("HISTRIO_FUZZ", "300"))
MOST_ERROR_BYTES = 8192
MOST_BLOCKED_S = 0.1
MOST_GROWTH_BYTES = 32 * 2**20
CHAT = {"model": "toy", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "ignore_eos": True}

pytestmark = pytest.mark.timeout(3600 if NUM_MALFORMED > 1000 else 180)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostileServer]:
    with hostile_server(tmp_path_factory.mktemp("hostile")) as running:
        assert_answers(running)
        gc.collect()
        gc.freeze()  # what the tests have imported is no part of the server: its collector shall not look at it
        yield running
    gc.unfreeze()


def assert_answers(server: HostileServer) -> None:
    """An honest client is served."""
    response = httpx.post(f"{server.url}/v1/chat/completions", json=CHAT, timeout=60)
    assert response.status_code == 200
    assert response.json()["usage"]["completion_tokens"] == 8


def timed(server: HostileServer, request: bytes) -> tuple[Answer, float]:
    """The answer, and for how long the loop stood still meanwhile."""
    server.most_blocked_s = 0.0
    return send(server, request), server.most_blocked_s


def fault_of(answer: Answer, blocked_s: float) -> str:
    """What is wrong with an answer; empty for nothing."""
    if answer.status >= 500:
        return f"status {answer.status}: {answer.body[:300]!r}"
    if answer.status >= 400 and len(answer.body) > MOST_ERROR_BYTES:
        return f"an error of {len(answer.body)} bytes"
    return f"the loop stood still for {blocked_s:.3f} s" if blocked_s > MOST_BLOCKED_S else ""


def test_malformed_requests_are_refused_in_few_words_and_hold_up_no_other(server: HostileServer) -> None:
    random_ = random.Random(20_26)
    statuses: Counter[int] = Counter()
    faults, longest_s = [], 0.0
    memory = resident_bytes()
    for nth in range(NUM_MALFORMED):
        request = malformed(random_)
        answer, blocked_s = timed(server, request)
        statuses[answer.status] += 1
        longest_s = max(longest_s, blocked_s)
        if blocked_s > MOST_BLOCKED_S:  # in any request the collector may run; what is the request's own comes again
            blocked_s = min(timed(server, request)[1] for _ in range(3))
        if fault := fault_of(answer, blocked_s):
            faults.append((nth, fault, request[:2000]))
        if nth == NUM_MALFORMED // 4:
            memory = resident_bytes()
    growth = resident_bytes() - memory
    print(f"statuses {dict(statuses)}, longest {longest_s * 1000:.1f} ms, {growth / 2**20:.1f} MiB more")
    assert not faults, faults[:5]
    assert statuses[400] > NUM_MALFORMED // 4, "a control: they are malformed"
    assert statuses[200], "a control: they are not far from right"
    assert growth < MOST_GROWTH_BYTES
    assert_answers(server)


@pytest.mark.parametrize("num_clients", [30, pytest.param(1000, marks=pytest.mark.thorough)])
def test_clients_that_vanish_leave_nothing_behind(server: HostileServer, num_clients: int) -> None:
    random_ = random.Random(1)
    memory, server.most_blocked_s = resident_bytes(), 0.0
    body = httpx.Request("POST", server.url, json=CHAT | {"stream": True, "max_tokens": 200}).read()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    for _ in range(num_clients):
        request = (head + body)[: random_.choice([random_.randrange(len(head + body)), len(head + body)])]
        with suppress(ConnectionError), socket.create_connection(server.address) as client:
            client.sendall(request)
            client.settimeout(0.01)
            with suppress(TimeoutError):
                client.recv(random_.randint(1, 2000))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", random_.randint(0, 1), 0))
    assert_answers(server)
    metrics = _until_idle(server)
    assert 'status="499"' in metrics
    assert not re.search(r'status="50[0-9]"} [1-9]', metrics)
    assert resident_bytes() - memory < MOST_GROWTH_BYTES
    assert server.most_blocked_s < MOST_BLOCKED_S


@pytest.mark.parametrize("num_streams", [32, pytest.param(512, marks=pytest.mark.thorough)])
def test_many_streams_at_a_time_all_end_and_leave_nothing_behind(server: HostileServer, num_streams: int) -> None:
    def read(nth: int) -> bool:
        with client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as found:
            return found.read().endswith(b"data: [DONE]\n\n")

    limits = httpx.Limits(max_connections=num_streams)
    with (
        httpx.Client(base_url=server.url, limits=limits, timeout=120) as client,
        ThreadPoolExecutor(num_streams) as pool,
    ):
        assert all(pool.map(read, range(num_streams)))
        memory, server.most_blocked_s = resident_bytes(), 0.0
        assert all(pool.map(read, range(num_streams))), "again, with all threads and buffers there"
    growth = resident_bytes() - memory
    print(f"the loop was held up for {server.most_blocked_s * 1000:.1f} ms at most, {growth / 2**20:.1f} MiB more")
    assert server.most_blocked_s < MOST_BLOCKED_S
    assert growth < MOST_GROWTH_BYTES
    assert_answers(server)
    _until_idle(server)


def resident_bytes() -> int:
    """Of this process, in which the server runs."""
    return int(psutil.Process().memory_info().rss)


def _until_idle(server: HostileServer) -> str:
    """The metrics once no request runs."""
    for _ in range(2000):
        metrics = httpx.get(f"{server.url}/metrics").text
        if "histrio_unfinished_requests 0\n" in metrics:
            return metrics
    raise AssertionError("requests whose clients have left still run")
