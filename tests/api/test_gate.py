"""Which host names the server answers to, and which web pages may send what."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from histrio_api.service.gate import Gate
from histrio_api.shared.settings import ApiSettings
from histrio_api.testing import ScriptedGateway, running_endpoint, saying, served_model

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}
EVIL = "http://evil.example"


async def status_of(method: str = "GET", host: str | None = "localhost", **given: Any) -> tuple[int, str, str]:
    """Status, code of the error if there is one, and the method that the application was asked with."""
    seen, sent = [""], []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["method"])
        await send({"type": "http.response.start", "status": 200})

    async def send(message: Any) -> None:
        sent.append(message)

    headers = given.pop("headers", {}) | ({} if host is None else {"host": host})
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await Gate(application, ApiSettings(**given))({"method": method, "path": "/", "headers": pairs}, None, send)
    code = json.loads(sent[1]["body"])["error"]["code"] if len(sent) > 1 else ""
    return sent[0]["status"], code, seen[-1]


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:3001",
        "localhost.",
        "app.localhost",
        "127.0.0.1:1",
        "127.8.0.1",
        "[::1]:9",
        "[::1]",
        "192.168.1.5:3001",
        "0.0.0.0",
        "x",
        "my-machine:3001",
        "",
        None,
    ],
)
async def test_addresses_and_names_that_are_not_public_are_served(host: str | None) -> None:
    assert (await status_of(host=host))[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:3001", "EVIL.example.", "127.0.0.1.evil.example", "localhost.evil.example"]
)
async def test_public_names_are_refused_unless_they_are_the_servers_own(host: str) -> None:
    assert (await status_of(host=host))[:2] == (403, "host_not_allowed")
    own = [host.partition(":")[0]]
    assert (await status_of(host=host, allowed_hosts=own))[0] == 200
    assert (await status_of(host=host, allowed_hosts=["other.example"]))[0] == 403
    assert (await status_of(host=host, api_keys=["k"]))[0] == 200, "with keys a page would need one"
    assert (await status_of(host=host, api_keys=["k"], allowed_hosts=["other.example"]))[0] == 403
    reached_from_elsewhere: dict[str, Any] = {"allow_anonymous": True, "allowed_hosts": []}
    gate = ApiSettings(**reached_from_elsewhere).__class__(host="0.0.0.0", **reached_from_elsewhere)
    assert not Gate(None, gate)._checks_host  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["[::1", "[", "a[b", "\x00", "evil.example@localhost:x"])
async def test_hosts_that_are_none_are_no_crash(host: str) -> None:
    assert (await status_of(host=host))[0] in (200, 403)


@pytest.mark.parametrize("origin", [EVIL, "null", "https://evil.example", "http://evil.localhost.example"])
async def test_foreign_pages_may_not_send(origin: str) -> None:
    headers = JSON | {"origin": origin}
    assert (await status_of("POST", headers=headers))[:2] == (403, "origin_not_allowed")
    assert (await status_of("POST", headers=headers, api_keys=["k"]))[0] == 403
    assert (await status_of("POST", headers=headers, cors_origins=[origin]))[0] == 200
    assert (await status_of("POST", headers=headers, cors_origins=["*"]))[0] == 200
    assert (await status_of("GET", headers=headers))[0] == 200, "what it reads is the browser's concern"
    assert (await status_of("OPTIONS", headers=headers))[0] == 200, "and so is whether it may ask"


@pytest.mark.parametrize(
    "origin",
    ["http://localhost:5173", "http://127.0.0.1", "http://[::1]:1", "http://box:3001", "https://box:3001", "app://x.y"],
)
async def test_pages_of_this_machine_and_of_applications_may_send(origin: str) -> None:
    assert (await status_of("POST", "box:3001", headers=JSON | {"origin": origin}))[0] == 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "", "text/plain; application/json"]
)
async def test_pages_send_json_as_json(kind: str) -> None:
    headers = {"origin": "http://localhost:1"} | ({"content-type": kind} if kind else {})
    assert (await status_of("POST", headers=headers))[:2] == (415, "unsupported_media_type")
    del headers["origin"]
    assert (await status_of("POST", headers=headers))[0] == 200, "programs may send it as they like"


async def test_json_with_a_charset_is_json() -> None:
    headers = {"origin": "http://localhost", "content-type": "Application/JSON; charset=utf-8"}
    assert (await status_of("POST", headers=headers))[0] == 200


async def test_head_is_asked_as_get() -> None:
    assert await status_of("HEAD") == (200, "", "GET")


@pytest.fixture(scope="module")
def url(model_folder: Path) -> Iterator[str]:
    gateway = ScriptedGateway(served_model(model_folder), lambda submission, choice: saying([]))
    with running_endpoint(gateway) as url:
        yield url


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/v1/models", {"host": "evil.example"}, 403),
        ("POST", "/v1/cache/reset", {"origin": EVIL}, 403),
        ("POST", "/v1/completions", {"origin": EVIL, "content-type": "text/plain"}, 403),
        ("POST", "/v1/completions", {"content-type": "text/plain"}, 200),
        ("HEAD", "/health", {}, 200),
        ("HEAD", "/v1/models", {}, 200),
        ("HEAD", "/v1/completions", {}, 405),
        ("GET", "/health", {"host": "x"}, 200),
    ],
)
def test_the_endpoint_stands_behind_it(url: str, method: str, path: str, headers: dict[str, str], status: int) -> None:
    body = b'{"model": "test/scripted", "prompt": "a"}' if method == "POST" else None
    response = httpx.request(method, url + path, headers=headers, content=body)
    assert response.status_code == status
    counted = httpx.get(f"{url}/metrics").text
    if status == 403:
        assert f'path="{path}",status="403"' in counted
    if method == "HEAD":
        assert not response.content
