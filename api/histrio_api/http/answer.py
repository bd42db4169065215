"""The bytes of an answer: status line, headers, and how a body's end is marked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Literal

import msgspec

__all__ = ["ErrorBody", "Framing", "error_answer", "framing_of", "head_bytes", "length_of", "openai_error_body"]

Framing = Literal["none", "length", "chunks", "close"]
"""How a client knows where the body ends: there is none, by its length, by a last chunk, or by the connection's end."""

ErrorBody = Callable[[int, str, str, str], bytes]
"""From status, message, code and path to the body of an error, in the form that clients of this path know."""

Headers = Iterable[tuple[bytes, bytes]]

_NO_BODY = (204, 304)


def length_of(headers: Headers) -> int | None:
    """The length of the body as the headers of its answer say it, if they do."""
    for name, value in headers:
        if name.lower() == b"content-length":
            return int(value)
    return None


def framing_of(method: str, version: str, status: int, length: int | None) -> Framing:
    """What fits the request and its answer; HTTP/1.0 does not know chunks."""
    if method == "HEAD" or status in _NO_BODY:
        return "none"
    if length is not None:
        return "length"
    return "close" if version == "1.0" else "chunks"


def head_bytes(status: int, headers: Headers, framing: Framing, *, closes: bool) -> bytes:
    """Status line and headers, with the date and what `framing` and `closes` need. Raises `ValueError`."""
    lines = [_status_line(status), b"date: " + _date(int(time.time()))]
    lines += [name + b": " + value for name, value in headers]
    if framing == "chunks":
        lines.append(b"transfer-encoding: chunked")
    if closes:
        lines.append(b"connection: close")
    head = b"\r\n".join([*lines, b"", b""])
    if not head.count(b"\r") == head.count(b"\n") == len(lines) + 1 or b"\0" in head:
        raise ValueError("a header of an answer is of more than one line")
    return head


def openai_error_body(status: int, message: str, code: str, path: str) -> bytes:
    """OpenAI's error object, whatever the path."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": code}})


def error_answer(status: int, body: bytes, headers: Headers = ()) -> bytes:
    """A whole answer with an error as JSON, after which the connection ends."""
    length = str(len(body)).encode()
    own = [(b"content-type", b"application/json"), (b"content-length", length), *headers]
    return head_bytes(status, own, "length", closes=True) + body


@lru_cache(64)
def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}".encode()


@lru_cache(1)
def _date(now_s: int) -> bytes:
    return formatdate(now_s, usegmt=True).encode()
