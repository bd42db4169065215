"""Bodies have room together, which they give back however they end."""

from __future__ import annotations

import logging
import re
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from histrio.errors import Overloaded
from histrio_api.errors import BodyTooLarge, ClientLeft
from histrio_api.http.request import Request
from histrio_api.request.body import FREE_BYTES, ReceivedBody
from histrio_api.shared.body_room import BodyRoom
from histrio_api.testing import Gate, ScriptedGateway, running_endpoint, saying, served_model

pytestmark = pytest.mark.anyio


def request_of(*pieces: bytes | None, length: str = "") -> Request[None]:
    """A request with a body of these pieces; None for a client that leaves."""
    left = list(pieces)

    async def receive() -> Any:
        piece = left.pop(0)
        if piece is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": piece, "more_body": bool(left)}

    headers = [(b"content-length", length.encode())] if length else []
    return Request(None, {"method": "POST", "path": "/", "headers": headers}, receive)


async def read(request: Request[None], room: BodyRoom, most: int = 1_000_000) -> tuple[bytes, int]:
    """The body, and the room that is left while it is worked on."""
    async with ReceivedBody(request, room, most) as body:
        return body, room.num_left


async def test_what_is_beyond_the_first_bytes_takes_room() -> None:
    room = BodyRoom(100_000)
    assert await read(request_of(b"a" * FREE_BYTES), room) == (b"a" * FREE_BYTES, 100_000)
    assert await read(request_of(b"a" * FREE_BYTES, b"b" * 9, b"c"), room) == (
        b"a" * FREE_BYTES + b"b" * 9 + b"c",
        99_990,
    )
    assert room.num_left == 100_000


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (request_of(b"a" * 150_000, b"a" * 150_000), Overloaded),
        (request_of(b"a" * 150_000, None), ClientLeft),
        (request_of(b"a" * 150_000, b"a" * 900_000), BodyTooLarge),
        (request_of(length="1000001"), BodyTooLarge),
    ],
)
async def test_room_is_given_back_whatever_goes_wrong(request_: Request[None], error: type[Exception]) -> None:
    room = BodyRoom(150_000 if error is not BodyTooLarge else 9_000_000)
    before = room.num_left
    with pytest.raises(error):
        await read(request_, room)
    assert room.num_left == before


async def test_lengths_that_are_no_numbers_are_left_to_what_comes() -> None:
    assert (await read(request_of(b"a", length="many"), BodyRoom(1)))[0] == b"a"


def count_of(url: str, status: int) -> int:
    found = re.search(
        rf'requests_total{{path="/v1/completions",status="{status}"}} (\d+)', httpx.get(f"{url}/metrics").text
    )
    return int(found[1]) if found else 0


def test_a_client_that_leaves_during_its_upload_is_counted_and_makes_no_noise(
    model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = ScriptedGateway(served_model(model_folder), lambda submission, choice: saying([]))
    with running_endpoint(gateway) as url:
        port = int(url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
        for _ in range(1000):
            if count_of(url, 499):
                break
        assert (count_of(url, 499), count_of(url, 500)) == (1, 0)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_requests_that_end_with_the_endpoint_get_an_error_object(model_folder: Path) -> None:
    gateway = ScriptedGateway(served_model(model_folder), lambda submission, choice: [Gate()])
    with running_endpoint(gateway) as url:
        port = int(url.rpartition(":")[2])
        client = socket.create_connection(("127.0.0.1", port))
        body = b'{"model": "test/scripted", "prompt": "a"}'
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        for _ in range(1000):
            if gateway.streams or httpx.get(f"{url}/health").status_code != 200:
                break
    with client:
        client.settimeout(45)
        answer = client.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b'{"error":{"message":"the server is shutting down"' in answer
