"""Clients of an endpoint that cost little beside it: the same bytes again and again over raw sockets, in one thread.

They look for the end of an answer and for nothing else, so a server on the same cores keeps them nearly to itself.
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Connection", "Connections", "chat"]

_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"content-length: "
_END_OF_CHUNKS = b"\r\n0\r\n\r\n"
_MOST_BYTES = 262_144
_TIMEOUT_S = 60.0


def chat(content: str, **fields: Any) -> bytes:
    """A request for a chat, as the bytes that are sent, with headers as OpenAI's client sends them."""
    body = json.dumps({"messages": [{"role": "user", "content": content}], **fields}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n"
        f"Content-Type: application/json\r\nUser-Agent: bench\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass(slots=True)
class Connection:
    """One client, which sends its next request once it was answered."""

    socket: socket.socket
    received: bytearray = field(default_factory=bytearray)
    begun: float = 0.0
    pieces: list[float] = field(default_factory=list)
    """When parts of the present answer came, on the clock of `time.perf_counter`."""

    def send(self, request: bytes) -> None:
        """Begin with a request."""
        self.received.clear()
        self.pieces = []
        self.begun = time.perf_counter()
        self.socket.sendall(request)

    def take(self) -> bool:
        """Receive what is there; whether the answer is complete. Raises `AssertionError` for one that is no 200."""
        data = self.socket.recv(_MOST_BYTES)
        assert data, "the server closed the connection"
        self.pieces.append(time.perf_counter())
        self.received += data
        assert self.received.startswith(b"HTTP/1.1 200"), bytes(self.received[:2000])
        at = self.received.find(_LENGTH)
        if at < 0:
            return self.received.endswith(_END_OF_CHUNKS)
        end = self.received.find(_END_OF_HEAD)
        length = int(self.received[at + len(_LENGTH) : self.received.index(b"\r", at)])
        return len(self.received) == end + len(_END_OF_HEAD) + length


class Connections:
    """So many connections to a server on this machine, kept open; a context manager."""

    def __init__(self, port: int, num_connections: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._all = [Connection(socket.create_connection(("127.0.0.1", port))) for _ in range(num_connections)]
        for each in self._all:
            each.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(each.socket, selectors.EVENT_READ, each)

    def __enter__(self) -> Connections:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        for each in self._all:
            each.socket.close()

    def ask(self, request: bytes, num_requests: int) -> float:
        """Send so many, on all connections at a time; seconds until the last one was answered."""
        begun = time.perf_counter()
        num_left, num_answered = num_requests - len(self._all), 0
        for each in self._all:
            each.send(request)
        while num_answered < num_requests:
            for connection in self._ready():
                if not connection.take():
                    continue
                num_answered += 1
                if num_left > 0:
                    num_left -= 1
                    connection.send(request)
        return time.perf_counter() - begun

    def stream_once(self, request: bytes) -> list[Connection]:
        """Send one on each connection at once; the connections with the times of their pieces when all were answered.
        The first piece of a stream has no token: it is its head."""
        for each in self._all:
            each.send(request)
        num_left = len(self._all)
        while num_left:
            num_left -= sum(connection.take() for connection in self._ready())
        return self._all

    def _ready(self) -> list[Connection]:
        found = self._selector.select(_TIMEOUT_S)
        assert found, f"no answer came within {_TIMEOUT_S} s"
        return [key.data for key, _ in found]
