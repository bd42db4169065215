"""Streams: the response that sends what its form writes, and notices that its client leaves."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

import anyio

from histrio_api.http.request import Receive
from histrio_api.http.response import Response, Send
from histrio_api.request.attended import client_left, ended_by

__all__ = ["EventSource", "EventStream", "Write"]


class Write(Protocol):
    """Sends a piece of a stream."""

    async def __call__(self, data: bytes, *, has_more: bool = False) -> None:
        """`has_more`: what is written next belongs to the same event, and nothing may come between."""


class EventSource(Protocol):
    """Where a stream's events come from."""

    async def produce(self, write: Write) -> bytes:
        """Write all events but the last, which is returned; cancelled if the client leaves."""

    def waiting(self) -> bytes:
        """Sent while nothing is written; may be empty."""

    def close(self, is_complete: bool) -> None:
        """Called once, whatever happened; `is_complete` if all was sent."""


class EventStream(Response):
    """Sends what a source writes, and that it waits while it is silent; always closes the source."""

    __slots__ = ("_is_complete", "_is_writing", "_keep_alive_s", "_num_events", "_source")

    def __init__(self, source: EventSource, *, media_type: str, keep_alive_s: float, headers: dict[str, Any]) -> None:
        """Something is sent before the stream was silent for `keep_alive_s` seconds."""
        stream_headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(headers=stream_headers | headers, media_type=media_type)
        self._source = source
        self._keep_alive_s = keep_alive_s
        self._num_events = 0
        self._is_writing = False
        self._is_complete = False

    async def send(self, receive: Receive, send: Send) -> None:
        """Head and events."""
        try:
            await send({"type": "http.response.start", "status": self.status, "headers": self.encoded_headers()})
            await self._send_events(receive, send)
        finally:
            self._source.close(self._is_complete)

    async def _send_events(self, receive: Receive, send: Send) -> None:
        """Run the producer until it is through or the client has left."""

        async def write(data: bytes, *, has_more: bool = False) -> None:
            self._num_events += 1
            self._is_writing = True  # a large event takes several calls of the system
            await send({"type": "http.response.body", "body": data, "more_body": True})
            self._is_writing = has_more

        with ended_by(partial(self._attend, receive, send)):
            last = await self._source.produce(write)
            self._is_complete = True
        if self._is_complete:
            await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _attend(self, receive: Receive, send: Send) -> None:
        """Until the client leaves, look now and then whether events were sent since the last look: one timer for each
        stream, not for each token."""
        num_events = self._num_events
        while True:
            with anyio.move_on_after(self._keep_alive_s / 2):
                return await client_left(receive)
            if num_events == self._num_events and not self._is_writing and (body := self._source.waiting()):
                await send({"type": "http.response.body", "body": body, "more_body": True})
            num_events = self._num_events
