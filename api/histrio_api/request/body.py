"""Reading a request's body: within its own limit, and within one for all bodies that are here at the same time."""

from __future__ import annotations

from typing import Any

from histrio_api.errors import BodyTooLarge, ClientLeft
from histrio_api.http.request import Request
from histrio_api.shared.body_room import BodyRoom

__all__ = ["FREE_BYTES", "ReceivedBody"]

FREE_BYTES = 65_536
"""Of each body, which need no room: the number of connections bounds them."""


class ReceivedBody:
    """The whole body, within `async with`: it has its room until that is left, so leave it when ids have been made.

    Raises `BodyTooLarge`, before it has come where the client announces its length, `Overloaded`, and `ClientLeft`.
    """

    __slots__ = ("_max_body_bytes", "_num_taken", "_request", "_room")

    def __init__(self, request: Request[Any], room: BodyRoom, max_body_bytes: int) -> None:
        self._request = request
        self._room = room
        self._max_body_bytes = max_body_bytes
        self._num_taken = 0

    async def __aenter__(self) -> bytes:
        if _announced_bytes(self._request) > self._max_body_bytes:
            raise BodyTooLarge(self._max_body_bytes)
        try:
            return await self._read()
        except BaseException:
            self._room.give_back(self._num_taken)
            raise

    async def __aexit__(self, *_error: object) -> None:
        self._room.give_back(self._num_taken)

    async def _read(self) -> bytes:
        pieces: list[bytes] = []
        num_bytes, has_more = 0, True
        while has_more:
            message: Any = await self._request.receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft("the client left before its request was complete")
            pieces.append(message["body"])
            num_bytes += len(message["body"])
            if num_bytes > self._max_body_bytes:
                raise BodyTooLarge(self._max_body_bytes)
            if num_bytes > FREE_BYTES:
                self._room.take(num_bytes - FREE_BYTES - self._num_taken)
                self._num_taken = num_bytes - FREE_BYTES
            has_more = message["more_body"]
        return b"".join(pieces)


def _announced_bytes(request: Request[Any]) -> int:
    said = request.header(b"content-length")
    return int(said) if said.isdigit() else 0
