"""Raw sockets against the server: what clients may do, and what happens to clients that do more."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

import anyio
import pytest

from histrio_api.http import connection, server
from histrio_api.http.connection import Connection
from histrio_api.http.exchange import Exchange
from histrio_api.http.limits import HttpLimits
from histrio_api.http.parser import Head
from histrio_api.http.server import HttpServer, num_allowed_connections

pytestmark = pytest.mark.anyio

CLIENTS: list[Client] = []
GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture(autouse=True)
async def clients_are_closed(anyio_backend: Any) -> AsyncIterator[None]:
    yield
    for client in CLIENTS:
        client.writer.transport.abort()
        with suppress(OSError):
            await client.writer.wait_closed()
    CLIENTS.clear()


async def read_all(receive: Any) -> bytes | None:
    """A request's body; None if the client left before its end."""
    pieces = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        pieces.append(message["body"])
        if not message["more_body"]:
            return b"".join(pieces)


@dataclass
class App:
    """Answers with what it was sent; some paths do otherwise."""

    gate: asyncio.Event
    lost: asyncio.Event
    num_begun: int = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.num_begun += 1
        path = scope["path"]
        if path == "/early":
            await self.answer(send, b"early", 413)
            return
        body = await read_all(receive)
        if body is None:
            self.lost.set()
            return
        if path == "/wait":
            await self._wait(receive)
        if path == "/raise":
            raise RuntimeError("a bug")
        if path == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/x")]})
            for piece in (b"one", b"two" * 1000, b""):
                await send({"type": "http.response.body", "body": piece, "more_body": bool(piece)})
            return
        if path == "/endless":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
        await self.answer(send, f"{scope['method']} {path} {len(body)}".encode())

    async def answer(self, send: Any, body: bytes, status: int = 200) -> None:
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _wait(self, receive: Any) -> None:
        """Until the gate opens, or the client leaves."""
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                assert (await receive())["type"] == "http.disconnect"
                self.lost.set()
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            await self.gate.wait()
            tasks.cancel_scope.cancel()


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        CLIENTS.append(self)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def rest(self) -> bytes:
        """All that comes until the server closes."""
        async with asyncio.timeout(45):
            return await self.reader.read()

    async def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """One answer whose length is known."""
        async with asyncio.timeout(45):
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = head[:-4].split(b"\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}
            body = await self.reader.readexactly(int(headers.get(b"content-length", b"0")))
        return int(first.split()[1]), headers, body

    def reset(self) -> None:
        """Leave without a good-bye."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@dataclass
class Running:
    server: HttpServer
    app: App
    port: int
    releases: list[None]

    async def client(self) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.port))

    async def ask(self, data: bytes) -> bytes:
        client = await self.client()
        await client.send(data)
        return await client.rest()


@asynccontextmanager
async def running(grace_s: float = 0.2, **limits: Any) -> AsyncIterator[Running]:
    app = App(asyncio.Event(), asyncio.Event())
    releases: list[None] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        served = HttpServer(app, listener, HttpLimits(**limits), release=lambda: releases.append(None))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(served.accept)
            yield Running(served, app, listener.getsockname()[1], releases)
            tasks.cancel_scope.cancel()
        await served.close(grace_s)
        await until(lambda: served.num_connections == 0)


def error_of(answer: bytes) -> tuple[int, str]:
    """Status and code of an error object."""
    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert b"content-type: application/json" in head
    assert b"connection: close" in head
    return int(head.split()[1]), error["code"]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(45):
        while not condition():  # noqa: ASYNC110 - conditions of the server's own state have no event
            await asyncio.sleep(0.005)


async def test_requests_follow_each_other_on_one_connection() -> None:
    async with running() as at:
        client = await at.client()
        for _ in range(3):
            await client.send(GET)
            assert (await client.answer())[::2] == (200, b"GET /a 0")
        await client.send(GET.replace(b"Host", b"Connection: close\r\nHost"))
        assert (await client.answer())[1][b"connection"] == b"close"
        assert await client.rest() == b""


async def test_pipelined_requests_are_taken_one_at_a_time_and_answered_in_order() -> None:
    async with running() as at:
        client = await at.client()
        body = b"x" * 3000
        post = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 3000\r\n\r\n" + body
        await client.send(GET.replace(b"/a", b"/wait") + (post + GET) * 40)
        await until(lambda: at.app.num_begun == 1)
        at.app.gate.set()
        assert (await client.answer())[2] == b"GET /wait 0"
        for _ in range(40):
            assert (await client.answer())[2] == b"POST /p 3000"
            assert (await client.answer())[2] == b"GET /a 0"


async def test_of_requests_sent_while_one_is_answered_little_is_held() -> None:
    async with running() as at:
        client = await at.client()
        await client.send(GET.replace(b"/a", b"/wait"))
        await until(lambda: at.app.num_begun == 1)
        client.writer.write(GET * 400_000)
        (held,) = at.server._connections
        await until(lambda: len(held._held) > connection.MAX_HELD_BYTES)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(held._held) < 1_000_000
        assert at.app.num_begun == 1
        client.reset()
        at.app.gate.set()
        await until(lambda: not at.server.num_connections)


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_stream_has_the_frame_of_its_http_version(version: bytes) -> None:
    async with running() as at:
        answer = await at.ask(b"GET /stream HTTP/" + version + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        plain = b"one" + b"two" * 1000
        if version == b"1.0":
            assert b"transfer-encoding" not in head
            assert body == plain
        else:
            assert b"transfer-encoding: chunked" in head
            assert body == b"3\r\none\r\nbb8\r\n" + plain[3:] + b"\r\n0\r\n\r\n"


async def test_head_has_the_headers_and_no_body() -> None:
    async with running() as at:
        client = await at.client()
        await client.send(GET.replace(b"GET", b"HEAD") + GET)
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert b"content-length: 9" in head
        assert (await client.answer())[2] == b"GET /a 0"


async def test_continue_is_said_once_the_body_is_wanted() -> None:
    async with running() as at:
        client = await at.client()
        head = b"POST /%b HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        await client.send(head % b"p")
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"body")
        assert (await client.answer())[2] == b"POST /p 4"
        await client.send(head % b"early")
        assert (await client.answer())[::2] == (413, b"early"), "no continue before a refusal"


@pytest.mark.parametrize(
    ("data", "refused"),
    [
        (b"nonsense\r\n\r\n", (400, "invalid_http")),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000, (431, "head_too_large")),
        (b"GET /" + b"a" * 20_000, (414, "url_too_long")),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", (405, "method_not_supported")),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", (400, "invalid_http")),
    ],
)
async def test_what_is_no_request_gets_an_error_object(data: bytes, refused: tuple[int, str]) -> None:
    async with running() as at:
        client = await at.client()
        await client.send(data)
        client.writer.write_eof()
        assert error_of(await client.rest()) == refused


async def test_a_client_that_still_sends_gets_its_early_answer() -> None:
    """Closed at once, most of these would see a reset in place of the answer."""
    async with running() as at:
        client = await at.client()
        await client.send(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n")
        for _ in range(90):
            await client.send(b"x" * 100_000)
        client.writer.write_eof()
        status, headers, body = await client.answer()
        assert (status, headers[b"connection"], body) == (413, b"close", b"early")
        assert at.app.num_begun == 1, "what followed was no request"


@pytest.mark.parametrize(
    ("data", "is_told"),
    [
        (b"", False),
        (b"GET /hea", True),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", True),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{", True),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\na", True),
    ],
)
async def test_nothing_and_half_a_request_are_not_waited_for(data: bytes, is_told: bool) -> None:
    async with running(idle_s=0.5) as at:
        client = await at.client()
        await client.send(data)
        answer = await client.rest()
        if is_told:
            assert error_of(answer) == (408, "request_timeout")
        else:
            assert answer == b""
        client.writer.close()
        await until(lambda: not at.server.num_connections)


async def test_a_connection_is_closed_after_its_last_answer() -> None:
    async with running(idle_s=0.5) as at:
        client = await at.client()
        await client.send(GET)
        assert (await client.answer())[0] == 200
        assert await client.rest() == b""


async def test_a_body_that_drips_is_not_waited_for() -> None:
    async with running(idle_s=0.2) as at:
        client = await at.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        answer = asyncio.ensure_future(client.rest())
        while not answer.done():
            client.writer.write(b"x")
            await asyncio.sleep(0.02)
        assert error_of(answer.result()) == (408, "request_timeout")
        assert at.app.lost.is_set()


async def test_a_body_that_makes_progress_is_waited_for() -> None:
    async with running(idle_s=0.6) as at:
        client = await at.client()
        await client.send(b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 40000\r\n\r\n")
        for _ in range(20):
            await client.send(b"x" * 2000)
            await asyncio.sleep(0.05)
        assert (await client.answer())[2] == b"POST /p 40000"


async def test_an_answer_that_takes_long_is_no_idle_connection() -> None:
    async with running(idle_s=0.4) as at:
        client = await at.client()
        await client.send(GET.replace(b"/a", b"/wait"))
        await asyncio.sleep(0.7)
        at.app.gate.set()
        assert (await client.answer())[0] == 200


async def test_a_client_that_takes_nothing_of_its_answer_is_left() -> None:
    async with running(idle_s=0.2) as at:
        client = await at.client()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(GET.replace(b"/a", b"/endless"))
        await until(lambda: at.server.num_connections == 1)
        await until(lambda: at.server.num_connections == 0)
        client.writer.transport.abort()


@pytest.mark.parametrize(("min_bytes_per_s", "is_left"), [(10**9, True), (1024, False)])
async def test_a_client_that_takes_its_answer_too_slowly_is_left(min_bytes_per_s: int, is_left: bool) -> None:
    async with running(idle_s=0.3, min_bytes_per_s=min_bytes_per_s) as at:
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)  # so that the system's buffers hide little
        slow.connect(("127.0.0.1", at.port))
        client = Client(*await asyncio.open_connection(sock=slow, limit=4096))
        await client.send(GET.replace(b"/a", b"/endless"))
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.2):
                while await client.reader.read(4096):  # noqa: ASYNC110 - as slowly as that
                    await asyncio.sleep(0.002)
        await until(lambda: at.server.num_connections == (0 if is_left else 1))


async def test_beyond_the_limit_connections_that_send_their_heads_slowly_are_closed_first() -> None:
    async with running(max_connections=2) as at:
        slow, busy = await at.client(), await at.client()
        await busy.send(GET.replace(b"/a", b"/wait"))
        await until(lambda: at.app.num_begun == 1)
        await slow.send(b"GET /a HTTP/1.1\r\nX: ")
        await until(lambda: all(each._num_received for each in at.server._connections))
        served = await at.client()
        await served.send(GET)
        assert (await served.answer())[0] == 200
        with suppress(OSError):
            assert await slow.rest() == b""
        at.app.gate.set()
        assert (await busy.answer())[0] == 200, "a control"


async def test_a_client_that_leaves_during_its_upload_is_lost_quietly(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as at:
        client = await at.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
        await until(lambda: at.app.num_begun == 1)
        client.reset()
        async with asyncio.timeout(45):
            await at.app.lost.wait()
    assert not caplog.records


@pytest.mark.parametrize("leaves", ["reset", "close"])
async def test_a_client_that_leaves_while_it_waits_is_noticed(leaves: str) -> None:
    async with running() as at:
        client = await at.client()
        await client.send(GET.replace(b"/a", b"/wait"))
        await until(lambda: at.app.num_begun == 1)
        if leaves == "reset":
            client.reset()
        else:
            client.writer.close()
        async with asyncio.timeout(45):
            await at.app.lost.wait()


async def test_a_client_that_closes_its_own_side_gets_its_answers() -> None:
    async with running() as at:
        client = await at.client()
        await client.send(GET.replace(b"/a", b"/wait") + GET)
        client.writer.write_eof()
        await until(lambda: at.app.num_begun == 1)
        await asyncio.sleep(0.7)
        assert not at.app.lost.is_set()
        at.app.gate.set()
        answer = (await client.rest()).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
        assert answer.count(b"HTTP/1.1 200 OK") == 2
        assert answer.endswith(b"GET /a 0")


async def test_a_bug_is_logged_and_said_as_an_error_object(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as at:
        assert error_of(await at.ask(GET.replace(b"/a", b"/raise"))) == (500, "internal_error")
    assert "a bug" in caplog.text


async def test_what_still_runs_when_it_stops_gets_an_error_object() -> None:
    async with running(grace_s=0.05) as at:
        client, idle = await at.client(), await at.client()
        await client.send(GET.replace(b"/a", b"/wait"))
        await until(lambda: at.app.num_begun == 1)
    assert error_of(await client.rest()) == (503, "internal_error")
    assert await idle.rest() == b""


@pytest.mark.parametrize("has_stopped", [True, False])
async def test_a_connection_that_was_on_its_way_when_it_stopped_is_closed(has_stopped: bool) -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        served = HttpServer(App(asyncio.Event(), asyncio.Event()), listener, HttpLimits())
        if has_stopped:
            await served.close(0.1)
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        accepted, _ = listener.accept()
        await loop.connect_accepted_socket(lambda: Connection(served), accepted)
        if not has_stopped:
            writer.write(GET)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200"), "a control: else it is served"
            await served.close(0.1)
        await asyncio.wait_for(reader.read(), 30)
        await until(lambda: served.num_connections == 0)
        writer.close()


async def test_what_ends_in_time_when_it_stops_is_answered() -> None:
    async with running(grace_s=10) as at:
        client = await at.client()
        await client.send(GET.replace(b"/a", b"/wait"))
        await until(lambda: at.app.num_begun == 1)
        asyncio.get_running_loop().call_later(0.1, at.app.gate.set)
    assert (await client.answer())[::2] == (200, b"GET /wait 0")


async def test_beyond_the_limit_the_connection_that_waited_longest_is_closed() -> None:
    async with running(max_connections=3) as at:
        first, *others = [await at.client() for _ in range(3)]
        await until(lambda: at.server.num_connections == 3)
        assert (await at.ask(GET.replace(b"Host", b"Connection: close\r\nHost"))).startswith(b"HTTP/1.1 200")
        with suppress(ConnectionError):
            assert await first.rest() == b""
        for other in others:
            await other.send(GET)
            assert (await other.answer())[0] == 200


async def test_beyond_the_limit_and_all_busy_a_client_is_told() -> None:
    async with running(max_connections=2) as at:
        busy = [await at.client() for _ in range(2)]
        for client in busy:
            await client.send(GET.replace(b"/a", b"/wait"))
        await until(lambda: at.app.num_begun == 2)
        answer = await at.ask(b"")
        assert error_of(answer) == (503, "too_many_connections")
        assert b"retry-after: 1" in answer
        at.app.gate.set()
        for client in busy:
            assert (await client.answer())[0] == 200


async def test_memory_of_large_requests_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "RELEASE_AFTER_S", 0.05)
    monkeypatch.setattr(connection, "LARGE_BYTES", 100_000)
    async with running() as at:
        for size, num_releases in ((1000, 0), (200_000, 1)):
            client = await at.client()
            await client.send(b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (size, b"x" * size))
            assert (await client.answer())[0] == 200
            await asyncio.sleep(0.2)
            assert len(at.releases) == num_releases


def limited_to(most: int) -> Callable[[int], tuple[int, int]]:
    return lambda _: (most, most)


@pytest.mark.parametrize(("most", "allowed"), [(20_000, 1024), (1024, 960), (256, 192), (64, 16)])
def test_connections_leave_descriptors_to_go_on_with(
    most: int, allowed: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import resource

    monkeypatch.setattr(resource, "getrlimit", limited_to(most))
    assert num_allowed_connections(1024) == allowed
    assert ("ulimit" in caplog.text) == (allowed < 1024)


async def ok(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-bad", b"a\r\nb: c")]})


async def test_a_header_of_two_lines_is_never_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        application: Callable[[Any, Any, Any], Awaitable[None]] = ok
        served = HttpServer(application, listener, HttpLimits())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(served.accept)
            client = Client(*await asyncio.open_connection(*listener.getsockname()))
            await client.send(GET)
            assert error_of(await client.rest()) == (500, "internal_error")
            tasks.cancel_scope.cancel()
        await served.close(0.1)


class Wire:
    """What an exchange writes, each call of the system for itself."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    async def drain(self) -> None:
        """It is all taken."""

    def end_exchange(self, *, keeps_alive: bool) -> None:
        assert keeps_alive


async def test_a_head_goes_out_with_the_first_piece_and_the_end_with_the_last() -> None:
    wire = Wire()
    exchange = Exchange(cast("Any", wire), Head("GET", b"/a", b"", [], "1.1", keeps_alive=True), {"path": "/a"})
    exchange.push_end()

    await exchange.send({"type": "http.response.start", "status": 200, "headers": []})
    assert wire.written == []
    await exchange.send({"type": "http.response.body", "body": b"first", "more_body": True})
    await exchange.send({"type": "http.response.body", "body": b"last"})

    (first, last) = wire.written
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert first.endswith(b"\r\n\r\n5\r\nfirst\r\n")
    assert last == b"4\r\nlast\r\n0\r\n\r\n"


async def test_an_empty_piece_sends_the_head_alone() -> None:
    wire = Wire()
    exchange = Exchange(cast("Any", wire), Head("GET", b"/a", b"", [], "1.1", keeps_alive=True), {"path": "/a"})

    await exchange.send({"type": "http.response.start", "status": 200, "headers": []})
    await exchange.send({"type": "http.response.body", "body": b"", "more_body": True})

    (head,) = wire.written
    assert head.endswith(b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n")
