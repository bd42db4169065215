"""One client's connection: requests in, one after the other, answers out, and nothing waits for ever.

A connection is in one of these states: waiting for a request, receiving one, answering one (which may be still coming),
or ending: an answer is out, and what the client still sends is dropped until it has noticed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, cast
from urllib.parse import unquote_to_bytes

from histrio_api.http.answer import ErrorBody, error_answer
from histrio_api.http.exchange import Application, Exchange
from histrio_api.http.limits import HttpLimits
from histrio_api.http.parser import Head, Malformed, RequestParser

__all__ = ["Connection", "Host"]

MAX_HELD_BYTES = 65_536
"""Of further requests, received while one is answered; more is left to the system's buffers."""
LARGE_BYTES = 1024 * 1024
"""Requests above this leave memory behind that is worth giving back."""
PROBE_S = (0.0, 0.1, 0.5)
"""When a client that has closed its side is asked whether it still reads: closed connections answer with a reset."""
LINGER_S = 10.0
"""How long a client that is still sending may take to notice its answer."""
_PROBE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Host(Protocol):
    """What a connection needs of its server."""

    application: Application
    limits: HttpLimits
    error_body: ErrorBody

    def opened(self, connection: Connection) -> None:
        """There is one more."""

    def closed(self, connection: Connection) -> None:
        """It is gone."""

    def is_waiting(self, connection: Connection, *, waits: bool) -> None:
        """Whether it waits for a request, and could be closed without a loss."""

    def start(self, exchange: Exchange) -> None:
        """Let the application answer."""

    def had_large_request(self) -> None:
        """A large request is over."""


class Connection(asyncio.Protocol):
    """One client. All methods run on the loop."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._limits = host.limits
        self._loop = asyncio.get_running_loop()
        self._parser = RequestParser(self, host.limits.max_head_bytes)
        self._transport: asyncio.Transport
        self._exchange: Exchange | None = None
        self._held = b""
        """Of the next requests, while one is answered."""
        self._is_ending = False
        self._is_half_closed = False
        self._is_reading = True
        self._is_draining = False
        """The server stops: no further request is taken."""
        self._num_received = 0
        """Bytes of the present request, and where they were when its progress was looked at last."""
        self._num_seen = 0
        self._has_late_head = False
        """A request has begun whose head may not be here as a whole."""
        self._timer: asyncio.TimerHandle | None = None
        """At or before the time at which `_on_due` is to be called: moving that is no new timer."""
        self._due_s = 0.0
        self._on_due: Callable[[], Any] | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._num_written = 0
        """Bytes of all answers, and how many of them the client had taken when that was looked at last."""
        self._num_taken_before = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport's: a client is here."""
        self._transport = cast("asyncio.Transport", transport)
        self._scope_of_all = self._common_scope()
        self._wait()
        self._host.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport's: the client is gone."""
        self._is_ending = True
        self._disarm()
        for timer in (self._timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._held = b""
        self._writable.set()
        if self._exchange is not None:
            self._exchange.leave()
            self._exchange = None
        self._host.closed(self)

    def data_received(self, data: bytes) -> None:
        """The transport's: bytes have come."""
        if self._is_ending:
            return
        if self._parser.is_complete:
            self._hold(data)
            return
        self._num_received += len(data)
        try:
            self._hold(self._parser.feed(data))
        except Malformed as error:
            self._refuse(error)
            return

        if self._has_late_head:
            self._has_late_head = False
            self._host.is_waiting(self, waits=True)  # for its turn to be closed where there are too many, this is news
            self._arm(self._end_slow_head)

    def eof_received(self) -> bool:
        """The transport's: the client sends no more. True keeps the connection open for an answer."""
        exchange = self._exchange
        if self._is_ending or exchange is None or not self._parser.is_complete or exchange.has_begun:
            return False
        if exchange.scope["http_version"] == "1.0":  # it knows no other answer than the last
            return False

        # Whether it has closed both sides or one is known only once something is sent.
        self._is_half_closed = True
        exchange.keeps_alive &= bool(self._held)
        for delay_s in PROBE_S:
            self._loop.call_later(delay_s, self._probe, exchange)
        return True

    def pause_writing(self) -> None:
        """The transport's: the client takes its answer more slowly than it is made."""
        self._writable.clear()
        self._watch_writing()

    def resume_writing(self) -> None:
        """The transport's: the client has caught up."""
        self._writable.set()
        if self._write_timer is not None and not self._is_ending:
            self._write_timer.cancel()
            self._write_timer = None

    def on_begin(self) -> None:
        """The parser's: a request begins."""
        self._has_late_head = True

    def on_head(self, head: Head) -> None:
        """The parser's: a head is complete."""
        self._has_late_head = False
        self._host.is_waiting(self, waits=False)
        self._exchange = Exchange(self, head, self._scope(head))
        self._exchange.keeps_alive &= not self._is_draining
        self._num_seen = self._num_received
        self._arm(self._check_progress)
        self._host.start(self._exchange)

    def on_body(self, data: bytes) -> None:
        """The parser's: a part of a body."""
        if self._exchange is not None:
            self._exchange.push(data)

    def on_end(self) -> None:
        """The parser's: the request is complete."""
        self._disarm()
        if self._exchange is not None:
            self._exchange.push_end()

    def write(self, data: bytes) -> None:
        """The exchange's: send."""
        if not self._transport.is_closing():
            self._num_written += len(data)
            self._transport.write(data)

    def write_error(self, status: int, message: str, code: str, path: str) -> None:
        """The exchange's: send an error as the whole answer."""
        self.write(error_answer(status, self._host.error_body(status, message, code, path)))

    async def drain(self) -> None:
        """The exchange's: wait until the client has taken most of what was written."""
        if not self._writable.is_set():
            await self._writable.wait()

    def pause_reading(self) -> None:
        """The exchange's: the application has enough for now."""
        if self._is_reading and not self._transport.is_closing():
            self._is_reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """The exchange's: the application wants more, or to hear when the client leaves."""
        if not self._is_reading and len(self._held) <= MAX_HELD_BYTES and not self._transport.is_closing():
            self._is_reading = True
            self._transport.resume_reading()

    def end_exchange(self, *, keeps_alive: bool) -> None:
        """The exchange's: its answer is complete."""
        self._exchange = None
        if self._num_received > LARGE_BYTES:
            self._host.had_large_request()
        if not self._parser.is_complete:
            self._linger()
        elif not keeps_alive or self._is_draining:
            self.end()
        else:
            self._parser.begin_next()
            self._num_received = 0
            self._wait()
            if self._held:
                self._loop.call_soon(self._take_held)

    def abort(self) -> None:
        """End at once; what is not sent yet is lost."""
        self._is_ending = True
        self._transport.abort()

    def end(self) -> None:
        """End once all is sent, or nothing of it is taken any more."""
        self._is_ending = True
        self._held = b""
        self._disarm()
        self._transport.close()
        if self._write_timer is None and self._transport.get_write_buffer_size():
            self._watch_writing()

    def shut_down(self) -> None:
        """Take no further request; end now, or once the present answer is complete."""
        self._is_draining = True
        if self._exchange is None:
            self.end()
        else:
            self._exchange.keeps_alive = False

    def _take_held(self) -> None:
        held, self._held = self._held, b""
        if not held or self._is_ending:
            return
        self.data_received(held)
        if self._is_half_closed and not self._is_ending:
            self._expect_no_more()

    def _expect_no_more(self) -> None:
        """The client has closed its side: what is here is all there will be."""
        if self._exchange is None or not self._parser.is_complete:
            self.end()
        else:
            self._exchange.keeps_alive &= bool(self._held)

    def _hold(self, rest: bytes) -> None:
        """Keep what is behind the request that is being answered, and stop reading if that is much."""
        self._held += rest
        if len(self._held) > MAX_HELD_BYTES:
            self.pause_reading()

    def _wait(self) -> None:
        self._host.is_waiting(self, waits=True)
        self._arm(self.end)
        self.resume_reading()

    def _refuse(self, error: Malformed) -> None:
        """Answer bytes that are no request, and end."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.leave()
            if exchange.has_begun:
                self.abort()
                return
        path = "" if exchange is None else exchange.scope["path"]
        self.write_error(error.status, str(error), error.code, path)
        self._linger()

    def _linger(self) -> None:
        """End, but let a client that is still sending see its answer: closed at once, it would see a reset."""
        if self._transport.is_closing():
            return
        self._is_ending = True
        self._held = b""
        self._transport.write_eof()
        if not self._is_reading:
            self._is_reading = True
            self._transport.resume_reading()
        self._arm(self._transport.abort, LINGER_S)

    def _end_slow_head(self) -> None:
        self._refuse(Malformed(408, "the request's headers did not come in time", "request_timeout"))

    def _check_progress(self) -> None:
        """Over each time that a client may be idle, enough of the body must come, unless we did not read."""
        num_new, self._num_seen = self._num_received - self._num_seen, self._num_received
        if num_new >= self._num_needed_bytes or not self._is_reading:
            self._arm(self._check_progress)
        else:
            self._refuse(Malformed(408, "the request's body did not come in time", "request_timeout"))

    def _probe(self, exchange: Exchange) -> None:
        if self._exchange is exchange and not exchange.has_begun:
            self.write(_PROBE)

    def _watch_writing(self) -> None:
        self._num_taken_before = self._num_taken
        self._write_timer = self._loop.call_later(self._limits.idle_s, self._check_writing)

    def _check_writing(self) -> None:
        """Over each time that a client may be idle, it must take enough of its answer, or all there is of it."""
        if self._num_taken - self._num_taken_before < self._num_needed_bytes:
            self.abort()
        else:
            self._watch_writing()

    @property
    def _num_taken(self) -> int:
        """Bytes that have left for the client."""
        return self._num_written - self._transport.get_write_buffer_size()

    @property
    def _num_needed_bytes(self) -> float:
        """What a client that is not too slow sends or takes between two looks."""
        return self._limits.min_bytes_per_s * self._limits.idle_s

    def _arm(self, callback: Callable[[], Any], delay_s: float | None = None) -> None:
        """Call it after that time, in place of whatever was to be called."""
        delay_s = self._limits.idle_s if delay_s is None else delay_s
        self._on_due, self._due_s = callback, self._loop.time() + delay_s
        if self._timer is not None and self._timer.when() > self._due_s:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_later(delay_s, self._look_at_time)

    def _disarm(self) -> None:
        self._on_due = None

    def _look_at_time(self) -> None:
        self._timer, callback, left_s = None, self._on_due, self._due_s - self._loop.time()
        if callback is not None and left_s > 0:
            self._timer = self._loop.call_later(left_s, self._look_at_time)
        elif callback is not None:
            self._on_due = None
            callback()

    def _common_scope(self) -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "scheme": "http",
            "root_path": "",
            "server": self._address("sockname"),
            "client": self._address("peername"),
        }

    def _scope(self, head: Head) -> dict[str, Any]:
        path = unquote_to_bytes(head.path) if b"%" in head.path else head.path
        return self._scope_of_all | {
            "http_version": head.version,
            "method": head.method,
            "path": path.decode("utf-8", "replace"),
            "raw_path": head.path,
            "query_string": head.query,
            "headers": head.headers,
        }

    def _address(self, name: str) -> tuple[str, int] | None:
        """None if the client has left already."""
        known = self._transport.get_extra_info(name)
        return (known[0], known[1]) if known else None
