"""From bytes to requests, one after the other: the C parser, fed so that it never reads beyond a request's end.

The parser calls back for all that its bytes contain. So that a thousand requests sent at once are not a thousand
objects, it is only given bytes up to the end of what is being read: heads and the frames of chunks end in an empty
line, and other bodies have a length.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import httptools

from histrio_api.http.limits import MAX_HEADERS, MAX_URL_BYTES

__all__ = ["Head", "Malformed", "RequestParser", "Sink"]

_END = b"\r\n\r\n"
_PIECE_BYTES = 65_536
_NO_HTTP = "this is not HTTP/1.1 as the standard has it"
_UPGRADING = (b"upgrade", b"http2-settings")
"""Headers of an upgrade, and what `Connection` says of it."""


class Malformed(Exception):
    """What came is no request that can be answered; the connection ends with this answer."""

    def __init__(self, status: int, message: str, code: str = "invalid_http") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Head(NamedTuple):
    """Request line and headers; header names in lower case."""

    method: str
    path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    version: str
    keeps_alive: bool
    """Whether the client may send another request on the same connection."""
    awaits_continue: bool = False
    """Whether the client waits for a word before it sends the body."""


class Sink(Protocol):
    """The receiver of what the parser finds."""

    def on_begin(self) -> None:
        """The first byte of a request."""

    def on_head(self, head: Head) -> None:
        """Its head is complete."""

    def on_body(self, data: bytes) -> None:
        """More of its body."""

    def on_end(self) -> None:
        """The request is complete."""


class RequestParser:
    """Reads one request after the other; `begin_next` lets it begin with the following one."""

    def __init__(self, sink: Sink, max_head_bytes: int) -> None:
        self._sink = sink
        self._max_head_bytes = max_head_bytes
        self._parser = httptools.HttpRequestParser(self)
        self._refusal: Malformed | None = None
        self.begin_next()

    def begin_next(self) -> None:
        """Begin with the next request; the one before is complete."""
        self.is_complete = False
        """Whether the request has come as a whole."""
        self._has_begun = False
        self._has_head = False
        self._is_chunked = False
        self._num_left = 0
        """Bytes of a body of known length that are still to come."""
        self._num_framing = 0
        """Bytes of the head, or those since the last that were part of the body."""
        self._tail = b""
        """The last bytes before the present piece, as far as an empty line may begin in them."""
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []

    def feed(self, data: bytes) -> bytes:
        """Take what belongs to the present request; returns what is behind it. Raises `Malformed`."""
        view, start = memoryview(data), 0
        while start < len(data) and not self.is_complete:
            end = self._end_of_piece(data, start)
            self._feed_piece(view[start:end])
            start = end
        return data[start:]

    def _end_of_piece(self, data: bytes, start: int) -> int:
        if self._has_head and not self._is_chunked:
            return min(len(data), start + self._num_left)

        seam = self._tail + data[start : start + 3]
        if (at := seam.find(_END)) >= 0:
            end = start + at + len(_END) - len(self._tail)
        elif (at := data.find(_END, start)) >= 0:
            end = at + len(_END)
        else:
            end = len(data)
        end = min(end, start + _PIECE_BYTES)
        self._tail = (self._tail + data[max(start, end - 3) : end])[-3:]
        return end

    def _feed_piece(self, piece: memoryview) -> None:
        self._num_framing += len(piece)
        if self._num_framing > self._max_head_bytes and not self._has_head:
            raise self._too_large()
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            self._ignore_upgrade()
        except httptools.HttpParserError:
            raise self._refusal or Malformed(400, _NO_HTTP) from None
        if self._num_framing > self._max_head_bytes and not self.is_complete:
            raise self._too_large()

    def _too_large(self) -> Malformed:
        text = f"the request's headers are longer than {self._max_head_bytes} bytes"
        return Malformed(431, text, "head_too_large")

    def _ignore_upgrade(self) -> None:
        """Read the same head again without the offer of another protocol: the parser takes it for granted, and
        would leave the body to that protocol."""
        method, version = self._parser.get_method(), self._parser.get_http_version()
        if method == b"CONNECT":
            raise Malformed(405, "this server is no proxy", "method_not_supported")

        lines = [method + b" " + self._url + b" HTTP/" + version.encode()]
        for name, value in self._headers:
            if name == b"connection":
                kept = [token for token in value.split(b",") if token.strip().lower() not in _UPGRADING]
                lines += [name + b": " + b",".join(kept)] if kept else []
            elif name not in _UPGRADING:
                lines.append(name + b": " + value)
        self._parser = httptools.HttpRequestParser(self)
        self.begin_next()
        self._feed_piece(memoryview(b"\r\n".join(lines) + _END))

    def on_message_begin(self) -> None:
        """The parser's: a request line begins."""
        if self._has_begun:
            self._refuse(400, _NO_HTTP)
        self._has_begun = True
        self._sink.on_begin()

    def on_url(self, url: bytes) -> None:
        """The parser's: a part of the URL."""
        self._url += url
        if len(self._url) > MAX_URL_BYTES:
            self._refuse(414, f"the URL is longer than {MAX_URL_BYTES} bytes", "url_too_long")

    def on_header(self, name: bytes, value: bytes) -> None:
        """The parser's: a whole header, or a trailer, which is not used."""
        if self._has_head:
            return
        if len(self._headers) == MAX_HEADERS:
            self._refuse(431, f"the request has more than {MAX_HEADERS} headers", "head_too_large")
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The parser's: the head is complete."""
        if self._parser.should_upgrade():
            return  # it stops right behind the head
        try:
            url = httptools.parse_url(self._url)
        except httptools.HttpParserError:
            self._refuse(400, "the request's URL is malformed")
        self._has_head = True
        awaits_continue = False
        for name, value in self._headers:
            if name == b"transfer-encoding":
                self._is_chunked = True
            elif name == b"content-length":
                self._num_left = int(value)
            elif name == b"expect":
                awaits_continue = value.lower() == b"100-continue"
        method, version = self._parser.get_method().decode("ascii"), self._parser.get_http_version()
        keeps_alive = version != "1.0" and self._parser.should_keep_alive()
        path, query = url.path or b"/", url.query or b""
        self._sink.on_head(Head(method, path, query, self._headers, version, keeps_alive, awaits_continue))

    def on_body(self, data: bytes) -> None:
        """The parser's: a part of the body."""
        self._num_framing = 0
        self._num_left -= len(data)
        self._sink.on_body(data)

    def on_message_complete(self) -> None:
        """The parser's: the request is complete."""
        if self._has_head:
            self.is_complete = True
            self._sink.on_end()

    def _refuse(self, status: int, message: str, code: str = "invalid_http") -> None:
        self._refusal = Malformed(status, message, code)
        raise self._refusal
