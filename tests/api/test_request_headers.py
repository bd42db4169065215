"""One header of a request, as its bytes came."""

from __future__ import annotations

import pytest

from histrio_api.http.request import Request

HEADERS = [(b"host", b"x"), (b"x-api-key", b"first \xff"), (b"x-api-key", b"second")]


async def receive() -> None:
    raise AssertionError("nothing is read")


@pytest.mark.parametrize(
    ("name", "value"),
    [(b"host", b"x"), (b"x-api-key", b"first \xff"), (b"authorization", b""), (b"Host", b"")],
    ids=["one", "the first of two", "none", "names are in lower case"],
)
def test_the_first_header_of_a_name_is_found(name: bytes, value: bytes) -> None:
    request = Request(None, {"method": "GET", "path": "/", "headers": HEADERS}, receive)
    assert request.header(name) == value
