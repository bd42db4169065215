"""One request and its answer: what the application receives and sends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol, TypeAlias

from histrio_api.http.answer import Framing, framing_of, head_bytes, length_of
from histrio_api.http.parser import Head

__all__ = ["WHEN_LEFT", "Application", "Exchange", "Wire"]

logger = logging.getLogger(__name__)

Message: TypeAlias = MutableMapping[str, Any]
Application: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

WHEN_LEFT = "histrio.when_left"
"""Under this name a scope has `Exchange.when_left`: a task that waits for a message costs more than a short request."""
MAX_BODY_AHEAD_BYTES = 65_536
"""Of a request's body, received before the application asks for it."""
_PIECE_BYTES = 262_144
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"


class Wire(Protocol):
    """What an exchange needs of its connection."""

    def write(self, data: bytes) -> None:
        """Send; nothing if the client has left."""

    def write_error(self, status: int, message: str, code: str, path: str) -> None:
        """Send an error as the whole answer to a request of this path."""

    async def drain(self) -> None:
        """Return once the client has taken most of what was written."""

    def pause_reading(self) -> None:
        """Take no more of the request for now."""

    def resume_reading(self) -> None:
        """Take more of the request."""

    def end_exchange(self, *, keeps_alive: bool) -> None:
        """The answer is complete."""

    def abort(self) -> None:
        """End the connection at once, so that the client sees that the answer is cut off."""


class Exchange:
    """The ASGI side of one request."""

    def __init__(self, wire: Wire, head: Head, scope: dict[str, Any]) -> None:
        self._wire = wire
        self._head = head
        self.scope = scope
        self.keeps_alive = head.keeps_alive
        self.has_left = False
        """The client is gone, or will not be answered any more."""
        self.has_begun = False
        """A part of the answer is on its way."""
        self.is_complete = False
        """All of the answer is on its way."""
        self._unsent = b""
        """The answer's head, which goes out with what follows it, as ASGI has it: one call of the system for both."""
        self._framing: Framing = "none"
        self._num_left = 0
        self._body: list[bytes] = []
        self._num_ahead = 0
        self._has_whole_body = False
        self._is_told_of_end = False
        self._news = asyncio.Event()
        self._awaits_continue = head.awaits_continue
        self._when_left: Callable[[], object] | None = None
        scope[WHEN_LEFT] = self.when_left

    def push(self, data: bytes) -> None:
        """More of the request's body."""
        if self.is_complete:
            return
        self._body.append(data)
        self._num_ahead += len(data)
        if self._num_ahead > MAX_BODY_AHEAD_BYTES:
            self._wire.pause_reading()
        self._news.set()

    def push_end(self) -> None:
        """The request is complete."""
        self._has_whole_body = True
        self._news.set()

    def leave(self) -> None:
        """The client has left."""
        self.has_left = True
        self._news.set()
        if self._when_left is not None:
            self._when_left()

    def when_left(self, call: Callable[[], object] | None) -> bool:
        """Have this called when the client leaves, in place of what was to be called; whether it has left already."""
        self._when_left = call
        return self.has_left

    async def run(self, application: Application) -> None:
        """Let the application answer; an answer that it does not give is one of ours."""
        try:
            await application(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            self._fail(503, "the server is shutting down", "internal_error")
        except Exception:
            logger.exception("the endpoint failed on a request")
            self._fail(500, "internal error; the server's log has the details", "internal_error")
        else:
            if not self.is_complete:
                self._fail(500, "internal error; the request was not answered", "internal_error")
        finally:
            del self.scope[WHEN_LEFT]  # a circle would be left to the garbage collector

    async def receive(self) -> Message:
        """More of the request's body, or that the client has left."""
        if self._awaits_continue and not self.has_begun:
            self._awaits_continue = False
            self._wire.write(_CONTINUE)
        while not (self._body or self.has_left or self.is_complete):
            if self._has_whole_body and not self._is_told_of_end:
                break
            self._news.clear()
            self._wire.resume_reading()
            await self._news.wait()

        if self.has_left or self.is_complete:
            return {"type": "http.disconnect"}
        data, self._body, self._num_ahead = b"".join(self._body), [], 0
        self._is_told_of_end = self._has_whole_body
        return {"type": "http.request", "body": data, "more_body": not self._has_whole_body}

    async def send(self, message: Message) -> None:
        """A part of the answer. Returns once the client has taken most of what was sent before."""
        if self.has_left:
            await asyncio.sleep(0)  # an application that goes on sending must not hold up the loop
            return
        if message["type"] == "http.response.start":
            self._begin(message)
            return

        body, has_more = message.get("body", b""), message.get("more_body", False)
        for start in range(0, len(body) or 1, _PIECE_BYTES):
            self._write(body[start : start + _PIECE_BYTES], is_last=not has_more and start + _PIECE_BYTES >= len(body))
            await self._wire.drain()
            if self.has_left:
                return
        if not has_more:
            self._end()

    def _begin(self, message: Message) -> None:
        assert not self.has_begun, "an answer begins once"
        status, headers = message["status"], list(message.get("headers", ()))
        length = length_of(headers)
        self._framing = framing_of(self._head.method, self._head.version, status, length)
        if self._framing == "length" and length is not None:
            self._num_left = length
        # A request that is not yet here as a whole would stand before the next one.
        self.keeps_alive &= self._framing != "close" and self._has_whole_body
        self._unsent = head_bytes(status, headers, self._framing, closes=not self.keeps_alive)
        self.has_begun, self._awaits_continue = True, False

    def _write(self, data: bytes, *, is_last: bool) -> None:
        assert self.has_begun, "the head of an answer comes first"
        assert not self.is_complete, "nothing follows the end of an answer"
        if self._framing == "none":
            data = b""
        elif self._framing == "chunks":
            data = (b"%x\r\n%b\r\n" % (len(data), data) if data else b"") + (_LAST_CHUNK if is_last else b"")
        elif self._framing == "length":
            self._num_left -= len(data)
            assert self._num_left >= 0, "a body is no longer than its content-length"
        data, self._unsent = self._unsent + data, b""
        if data:
            self._wire.write(data)

    def _end(self) -> None:
        assert not self._num_left, "a body is no shorter than its content-length"
        self.is_complete = True
        self._news.set()
        self._wire.end_exchange(keeps_alive=self.keeps_alive)

    def _fail(self, status: int, message: str, code: str) -> None:
        """What is said where the application says nothing."""
        if self.has_left or self.is_complete:
            return
        if self.has_begun:
            self._wire.abort()
            return
        self.has_begun = self.is_complete = True
        self._wire.write_error(status, message, code, self.scope["path"])
        self._wire.end_exchange(keeps_alive=False)
