"""Requests that no honest client sends, and a server beside them whose loop is watched."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio

from histrio.testing.harness import HarnessOptions, serving
from histrio.testing.toy import ToyFactory, write_toy_model
from histrio_api.request.known_fields import KNOWN_FIELDS
from histrio_api.routes import ROUTES
from histrio_api.testing import CHATML, endpoint_over
from histrio_grammars.backend import Llguidance
from histrio_samplers.plugin import SAMPLERS

__all__ = ["Answer", "HostileServer", "hostile_server", "malformed", "raw_request", "send"]

PROBE_S = 0.02
TIMEOUT_S = 60
HELLO = [{"role": "user", "content": "Hello"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
HISTORY = [
    *HELLO,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "1", "content": "2"},
]
FULL: dict[str, Any] = {
    "model": "toy",
    "messages": HISTORY,
    "prompt": "Hello",
    "max_tokens": 2,
    "temperature": 1.0,
    "tools": [TOOL],
    "tool_choice": "auto",
    "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}},
    "stop": ["x"],
    "logit_bias": {"5": 1},
    "stream": False,
    "stream_options": {"include_usage": True},
    "tokens": [1, 2],
    "input": "Hello",
    "content": "Hello",
    "options": {"num_predict": 2},
    "max_completion_tokens": 2,
    "n_predict": 2,
    "system": "Be kind",
    "chat_template_kwargs": {"enable_thinking": True},
}
NASTY: list[Any] = [
    [1, []], ["x", 1, [2]], [[1], "x"],
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 2**64, 10**30, 1e308, -1e-308, 0.1, "", " ", "0", "null",
    "\0", "\ud800", "é" * 300, "{{ 7 * 7 }}", "{% for x in range(10**9) %}x{% endfor %}", "<|im_start|>",
    "x" * 20_000, [], {}, [[]], [None], {"": {}}, [0] * 2_000, {"$ref": "#"}, {"type": "object"}, {"a": {"b": {}}},
    {"allOf": [{"$ref": "#"}]}, {"enum": list(range(3_000))}, {"pattern": "(a+)+$"}, {"type": "text", "text": 1},
    "(a|b)*" * 200, "(a{1000}){1000}", '"a"{1000000}', "root ::= root", 'start: "a" start', "data:image/png;base64,AA",
    {"role": "user"}, [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1"}}],
]  # fmt: skip
NAMES = sorted(KNOWN_FIELDS)
QUERIES = ("", "?", "?x=1", "?start=a&end=b", "?group_by=%00", "?" + "a=b&" * 400, "?%ff=%fe")
_EXPENSIVE = 0.02
"""Share of requests that may bring a form of the answer, which is compiled in a process of its own."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; status 0 for nothing."""

    status: int
    body: bytes


@dataclass
class HostileServer:
    """A toy replica with its endpoint, in a thread."""

    url: str
    most_blocked_s: float = 0.0
    """Longest processor time that the loop's thread took between two turns of the loop since this was set to 0."""

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        found = urlsplit(self.url)
        return str(found.hostname), int(found.port or 0)


@contextmanager
def hostile_server(folder: Path) -> Iterator[HostileServer]:
    """Serve a toy of 256 tokens of context."""
    model = write_toy_model(folder / "toy", num_layers=2, max_sequence_length=256)
    (model / "chat_template.jinja").write_text(CHATML)
    options = HarnessOptions(num_cache_blocks=4096, kv_block_size=16, max_sequence_length=256, max_batch_size=64)
    served: list[HostileServer] = []
    errors: list[BaseException] = []
    is_up, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        kinds: dict[str, Any] = {"samplers": list(SAMPLERS), "grammars": [Llguidance()], "options": options}
        async with serving(model, ToyFactory(), **kinds) as harness, endpoint_over(harness.gateway) as url:
            served.append(HostileServer(url))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_probe, served[0])
                is_up.set()
                await anyio.to_thread.run_sync(stop.wait, abandon_on_cancel=True)
                tasks.cancel_scope.cancel()

    def run() -> None:
        try:
            anyio.run(serve, backend_options={"use_uvloop": True})
        except BaseException as error:
            errors.append(error)
        finally:
            is_up.set()

    thread = threading.Thread(target=run, name="hostile")
    thread.start()
    try:
        assert is_up.wait(TIMEOUT_S)
        assert not errors, errors
        yield served[0]
    finally:
        stop.set()
        thread.join(TIMEOUT_S)
    assert not errors, errors


async def _probe(server: HostileServer) -> None:
    """Processor time, unlike time, is not taken by other threads and programs. Between two looks the loop turns many
    times within 20 ms, unless a single callback holds it up."""
    while True:
        begun = time.thread_time()
        await anyio.sleep(PROBE_S)
        server.most_blocked_s = max(server.most_blocked_s, time.thread_time() - begun)


def malformed(random_: random.Random) -> bytes:
    """A request, most of which is right, or that is none at all."""
    if random_.random() < 0.1:
        return raw_request(random_)
    route = random_.choice(ROUTES)
    path = random_.choice(sorted(route.paths)).replace("{model_id:path}", "toy").replace("{name:path}", "x")
    method = route.method if random_.random() < 0.95 else _other_method(random_)
    body = _body(random_) if method not in ("GET", "HEAD") or random_.random() < 0.05 else b""
    return _request(random_, method, path + random_.choice(QUERIES) * (random_.random() < 0.2), body)


def raw_request(random_: random.Random) -> bytes:
    """Bytes that are hardly HTTP."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
    junk = random_.randbytes(random_.randint(1, 300))
    return random_.choice(
        [
            junk,
            b"GET " + junk + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /" + b"a" * random_.choice([10, 20_000]) + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
            head + b"Content-Length: -1\r\n\r\n",
            head + b"Content-Length: 99999999999\r\n\r\n",
            head + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
            head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + junk,
            head + b"X: " + b"y" * random_.choice([10, 100_000]) + b"\r\n\r\n",
            head + b"".join(b"X%d: y\r\n" % nth for nth in range(400)) + b"\r\n",
            b"GET //%2e%2e/%00/" + junk.hex().encode() + b" HTTP/1.1\r\nHost: [::\r\n\r\n",
            b"GET /health HTTP/1.1\r\n" + junk.replace(b"\n", b"") + b"\r\n\r\n",
        ]
    )


def send(server: HostileServer, request: bytes) -> Answer:
    """Send it on a connection of its own, and read to the end."""
    with socket.create_connection(server.address, timeout=TIMEOUT_S) as client, suppress(ConnectionError):
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while data := client.recv(65_536):
            answer += data
        head, _, body = answer.partition(b"\r\n\r\n")
        while head.startswith(b"HTTP/1.1 100"):
            head, _, body = body.partition(b"\r\n\r\n")
        return Answer(int(head.split()[1]) if head else 0, body)
    return Answer(0, b"")


def _request(random_: random.Random, method: str, target: str, body: bytes) -> bytes:
    kind = random_.choice(["application/json"] * 8 + ["text/plain", "multipart/form-data; boundary=x", "\xff"])
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", "Connection: close"]
    if body or method in ("POST", "DELETE"):
        length = len(body) if random_.random() < 0.97 else random_.choice([0, len(body) // 2])
        lines.append(f"Content-Length: {length}")
    if random_.random() < 0.05:
        lines.append(
            random_.choice(["X-Histrio-Strict: true", "Authorization: Bearer \xff", "Origin: null", "Expect: x"])
        )
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def _other_method(random_: random.Random) -> str:
    return random_.choice(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "FOO"])


def _body(random_: random.Random) -> bytes:
    names = random_.sample(sorted(FULL), random_.randint(2, 8))
    fields = json.loads(json.dumps({name: FULL[name] for name in {"messages", "max_tokens", *names}}))
    if random_.random() > _EXPENSIVE:
        for name in ("response_format", "tools", "tool_choice"):
            fields.pop(name, None)
    for _ in range(random_.randint(1, 3)):
        _spoil(random_, fields)
    text = json.dumps(fields).encode()
    match random_.randrange(20):
        case 0:
            return text[: random_.randrange(len(text))]
        case 1:
            return text.replace(b'"', random_.choice([b"'", b"\xff", b""]), random_.randint(1, 3))
        case 2:
            return random_.choice(
                [b"[" * 5_000, b'{"a":' * 5_000, b"\xef\xbb\xbf" + text, b"null", b"[]", b"NaN", b"1e999"]
            )
        case 3:
            return text[:-1] + b', "max_tokens": NaN, "model": "toy"}'
        case _:
            return text


def _spoil(random_: random.Random, fields: dict[str, Any]) -> None:
    """Put something else in one place, wherever that is."""
    fields.setdefault("model", "toy")
    place: Any = fields
    key: Any = random_.choice(sorted(fields))
    while random_.random() < 0.6 and isinstance(inner := place[key], dict | list) and inner:
        place = inner
        key = random_.choice(sorted(inner)) if isinstance(inner, dict) else random_.randrange(len(inner))
    if random_.random() < 0.3:
        place, key = fields, random_.choice(NAMES)
    if isinstance(place, dict) and random_.random() < 0.2:
        place.pop(key, None)
    elif isinstance(place, dict) and random_.random() < 0.2:
        place[random_.choice(NAMES)] = deepcopy(random_.choice(NASTY))
    else:
        place[key] = deepcopy(random_.choice(NASTY))
