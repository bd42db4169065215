"""The parser never reads beyond a request, whatever pieces the bytes come in, and refuses what is too much."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histrio_api.http.limits import MAX_HEADERS, MAX_URL_BYTES
from histrio_api.http.parser import Head, Malformed, RequestParser

HOST = b"Host: x\r\n"
GET = b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n"
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"


@dataclass
class Taken:
    """Collects what a parser finds, and feeds it as a connection does: the next request once one is complete."""

    max_head_bytes: int = 65_536
    heads: list[Head] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    num_begun: int = 0
    num_complete: int = 0
    most_ahead: int = 0

    def __post_init__(self) -> None:
        self.parser = RequestParser(self, self.max_head_bytes)

    def on_begin(self) -> None:
        self.num_begun += 1
        self.most_ahead = max(self.most_ahead, self.num_begun - self.num_complete)

    def on_head(self, head: Head) -> None:
        self.heads.append(head)
        self.bodies.append(b"")

    def on_body(self, data: bytes) -> None:
        self.bodies[-1] += data

    def on_end(self) -> None:
        pass

    def feed(self, data: bytes) -> None:
        while data:
            data = self.parser.feed(data)
            if self.parser.is_complete:
                self.num_complete += 1
                self.parser.begin_next()

    def feed_in_pieces(self, data: bytes, cuts: list[int]) -> None:
        offsets = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
        for start, end in pairwise(offsets):
            self.feed(data[start:end])


def post(body: bytes, *, chunked: bool = False, extra: bytes = b"") -> bytes:
    head = b"POST /b?x=1 HTTP/1.1\r\n" + HOST + extra
    if not chunked:
        return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    pieces = [body[at : at + 7] for at in range(0, len(body), 7)]
    framed = b"".join(b"%x;e=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\nTrailer: t\r\n\r\n"


BODY = b'{"a": "\r\n\r\nGET / HTTP/1.1\r\n\r\n"}'
REQUESTS = [
    GET,
    post(BODY),
    post(BODY, chunked=True),
    post(b""),
    post(BODY, extra=UPGRADE),
    post(BODY, chunked=True, extra=UPGRADE),
]


@given(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=5), st.lists(st.integers(0, 2000), max_size=12))
def test_pieces_change_nothing(requests: list[bytes], cuts: list[int]) -> None:
    taken = Taken()
    taken.feed_in_pieces(b"".join(requests), cuts)
    assert taken.num_complete == len(requests)
    assert taken.bodies == [BODY if BODY[:6] in each else b"" for each in requests]
    assert [head.method for head in taken.heads] == [each.split(b" ")[0].decode() for each in requests]


def test_of_many_requests_sent_at_once_one_is_begun_at_a_time() -> None:
    taken = Taken()
    taken.feed(GET * 5000)
    assert (taken.num_complete, taken.most_ahead) == (5000, 1)
    rest = Taken().parser.feed(GET * 5000)
    assert rest == GET * 4999, "control: one call takes one request"


@pytest.mark.parametrize("is_chunked", [False, True])
def test_an_offer_of_another_protocol_is_no_part_of_the_request(is_chunked: bool) -> None:
    taken = Taken()
    taken.feed(post(BODY, chunked=is_chunked, extra=UPGRADE + b"X-Other: kept\r\n"))
    (head,) = taken.heads
    names = [name for name, _ in head.headers]
    assert b"x-other" in names
    assert not {b"upgrade", b"http2-settings", b"connection"} & set(names)
    assert (taken.bodies, head.keeps_alive, head.query) == ([BODY], True, b"x=1")


def test_what_else_connection_says_is_kept() -> None:
    taken = Taken()
    taken.feed(post(BODY, extra=b"Connection: close, Upgrade\r\nUpgrade: websocket\r\n"))
    assert not taken.heads[0].keeps_alive
    assert taken.bodies == [BODY]


def test_trailers_are_no_headers() -> None:
    taken = Taken()
    taken.feed(post(BODY, chunked=True))
    assert b"trailer" not in [name for name, _ in taken.heads[0].headers]


def refusal(data: bytes, max_head_bytes: int = 65_536) -> Malformed:
    taken = Taken(max_head_bytes)
    with pytest.raises(Malformed) as caught:
        taken.feed_in_pieces(data, list(range(0, len(data), 1000)))
    return caught.value


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 20_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * (MAX_HEADERS + 1) + b"\r\n", 431),
        (b"GET /" + b"a" * MAX_URL_BYTES + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /" + b"a" * 200_000, 414),
        (post(b"a", chunked=True)[:-2] + b"T: " + b"a" * 70_000, 431),
        (post(b"a", chunked=True)[:-2] + b"T: a\r\n" * 20_000, 431),
        (post(b"", chunked=True)[:-16] + b"5;" + b"e" * 70_000, 431),
        (b"\r\n" * 40_000, 431),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: x\n\n" * 2, 400),
        (post(b"ab").replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"), 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET http:// HTTP/1.1\r\n\r\n", 400),
    ],
)
def test_what_is_too_much_or_no_http_is_refused(data: bytes, status: int) -> None:
    assert refusal(data).status == status


def test_heads_up_to_the_limit_are_read() -> None:
    head = b"GET / HTTP/1.1\r\n\r\n"
    fitting = head[:-2] + b"X: " + b"a" * (1000 - len(head) - 5) + b"\r\n\r\n"
    taken = Taken(1000)
    taken.feed_in_pieces(fitting * 3, [999, 1001])
    assert (len(fitting), taken.num_complete) == (1000, 3)
    assert "longer than 1000 bytes" in str(refusal(fitting[:-4] + b"a\r\n\r\n" + b"x", 1000))


def test_small_chunks_of_a_long_body_are_no_long_frame() -> None:
    taken = Taken(1000)
    taken.feed(post(b"a" * 20_000, chunked=True))
    assert taken.bodies == [b"a" * 20_000]
