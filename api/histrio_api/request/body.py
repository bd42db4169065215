"""Reading a request's body: within its own limit, and within one for all bodies that are here at the same time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from histrio_api.errors import BodyTooLarge, ClientLeft
from histrio_api.http.request import Request
from histrio_api.shared.body_room import BodyRoom

__all__ = ["FREE_BYTES", "received_body"]

FREE_BYTES = 65_536
"""Of each body, which need no room: the number of connections bounds them."""


@asynccontextmanager
async def received_body(request: Request[Any], room: BodyRoom, max_body_bytes: int) -> AsyncIterator[bytes]:
    """The whole body; it has its room until this is left, so leave it when ids have been made of it.

    Raises `BodyTooLarge`, before it has come where the client announces its length, `Overloaded`, and `ClientLeft`.
    """
    if _announced_bytes(request) > max_body_bytes:
        raise BodyTooLarge(max_body_bytes)

    pieces: list[bytes] = []
    num_bytes = num_taken = 0
    try:
        has_more = True
        while has_more:
            message: Any = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft("the client left before its request was complete")
            pieces.append(message["body"])
            num_bytes += len(message["body"])
            if num_bytes > max_body_bytes:
                raise BodyTooLarge(max_body_bytes)
            wanted = max(0, num_bytes - FREE_BYTES)
            room.take(wanted - num_taken)
            num_taken = wanted
            has_more = message["more_body"]
        body = b"".join(pieces)
        pieces.clear()
        yield body
    finally:
        room.give_back(num_taken)


def _announced_bytes(request: Request[Any]) -> int:
    said = request.header(b"content-length")
    return int(said) if said.isdigit() else 0
