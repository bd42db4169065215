"""Keys over HTTP: which routes need one, what 429 says, and what a key may use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from histrio.errors import TopologyError
from histrio_api.keys.key import hash_of
from histrio_api.keys.ring import KeyRing
from histrio_api.routes import ROUTES
from histrio_api.service.service import open_edge
from histrio_api.shared.settings import ApiSettings
from histrio_api.testing import Gate, ScriptedGateway, running_endpoint, saying, served_model

MODEL = "test/scripted"
BODY = {"model": MODEL, "prompt": "Hello", "max_tokens": 3}
OPEN_ROUTES = {"/", "/health", "/ping", "/ready", "/health/live", "/ui/{name:path}"}
"""What tells nothing that a stranger may not know."""


def key(name: str, **limits: Any) -> dict[str, Any]:
    """A table of `[[api.key]]` whose key is its name."""
    return {"name": name, "hash": hash_of(name.encode())} | limits


KEYS = [
    key("free"),
    key("few", **{"requests-per-minute": 2}),
    key("short", **{"tokens-per-minute": 40}),
    key("single", **{"concurrent-requests": 1}),
    key("other", models=["org/other"]),
    key("patient", **{"highest-priority": 3}),
    key("owner", admin=True),
]
OF_NO_MODEL = {"/api/version", "/version", "/v1/models", "/api/tags", "/api/ps", "/v1/usage"}
"""What a key sees that may not use the served model."""
OF_ADMINS = {"/metrics", "/v1/cache/reset", "/v1/configure"}


@pytest.fixture(scope="module")
def gateway(model_folder: Path) -> ScriptedGateway:
    return ScriptedGateway(served_model(model_folder), lambda submission, choice: saying([5, 6]))


@pytest.fixture(scope="module")
def http(gateway: ScriptedGateway) -> Iterator[httpx.Client]:
    with running_endpoint(gateway, key=KEYS, **{"api-keys": ["old"]}) as url, httpx.Client(base_url=url) as client:
        yield client


def complete(http: httpx.Client, name: str, **fields: Any) -> httpx.Response:
    return http.post("/v1/completions", json=BODY | fields, headers={"authorization": f"Bearer {name}"})


def answers(http: httpx.Client, name: str | None = None) -> dict[str, httpx.Response]:
    """Of every route to a request with this key."""
    headers = {} if name is None else {"x-api-key": name}
    return {
        path: http.request(route.method, path.replace("{model_id:path}", MODEL), headers=headers)
        for route in ROUTES
        for path in route.paths
    }


def test_every_route_needs_a_key_unless_it_says_that_it_is_open(http: httpx.Client) -> None:
    answered = answers(http)
    assert {path for path, each in answered.items() if each.status_code != 401} == OPEN_ROUTES
    assert "/metrics" in answered, "a control"


def test_a_key_that_may_not_use_the_model_learns_nothing_of_it(http: httpx.Client) -> None:
    answered = answers(http, "other")
    assert {path for path, each in answered.items() if each.status_code != 403} == OPEN_ROUTES | OF_NO_MODEL
    seen = [each.text for path, each in answered.items() if path != "/"]
    assert not [each for each in seen if MODEL in each]
    assert answered["/api/tags"].json() == answered["/api/ps"].json() == {"models": []}
    for path in ("/api/tags", "/api/ps", "/props", "/v1/models"):
        assert MODEL in http.get(path, headers={"x-api-key": "free"}).text, "a control"


def test_what_is_about_all_clients_needs_an_admins_key(http: httpx.Client) -> None:
    refused = {path: each for path, each in answers(http, "free").items() if each.status_code == 403}
    assert refused.keys() == OF_ADMINS
    assert all("`admin = true`" in each.text for each in refused.values())
    answered = answers(http, "owner")
    assert [answered[path].status_code for path in sorted(OF_ADMINS)] == [200, 200, 200]


def test_without_keys_only_this_machine_changes_the_server(gateway: ScriptedGateway) -> None:
    with running_endpoint(gateway, host="0.0.0.0", **{"allow-anonymous": True}) as url:
        url = url.replace("0.0.0.0", "127.0.0.1")
        assert httpx.post(f"{url}/v1/cache/reset").json()["error"]["code"] == "admin_only"
        assert httpx.get(f"{url}/metrics").status_code == 200, "a control"


@pytest.mark.parametrize("name", ["free", "old"])
def test_hashed_and_plain_keys_work_side_by_side(http: httpx.Client, name: str, gateway: ScriptedGateway) -> None:
    response = complete(http, name)
    assert response.status_code == 200
    assert not [each for each in response.headers if each.startswith("x-ratelimit")]
    assert gateway.submissions[-1].key == ("free" if name == "free" else KeyRing(["old"]).find(b"old").key.name)  # type: ignore[union-attr]
    assert complete(http, hash_of(name.encode())).status_code == 401, "a hash opens nothing"


def test_requests_above_the_limit_are_a_429_that_says_when(http: httpx.Client) -> None:
    first, second, third = [complete(http, "few", prompt=prompt) for prompt in ("a", 7.5, "a")]
    assert [each.status_code for each in (first, second, third)] == [200, 400, 429], "a bad request counts too"
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert [each.headers["x-ratelimit-remaining-requests"] for each in (first, second, third)] == ["1", "0", "0"]
    assert third.json()["error"] | {"message": ""} == {
        "message": "",
        "type": "requests",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert 25 <= int(third.headers["retry-after"]) <= 30
    assert http.get("/v1/models", headers={"x-api-key": "few"}).status_code == 200, "reading is not counted"
    with openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="few", max_retries=0) as client:
        with pytest.raises(openai.RateLimitError, match="2 requests per minute"):
            client.completions.create(model=MODEL, prompt="a")


def test_tokens_that_were_not_needed_come_back(http: httpx.Client) -> None:
    refused = complete(http, "short", max_tokens=100)
    assert refused.status_code == 200, "a full bucket gives even what it does not hold"
    used = refused.json()["usage"]["total_tokens"]
    left = int(refused.headers["x-ratelimit-remaining-tokens"])
    assert left == 0, "reserved while it ran"
    again = complete(http, "short", max_tokens=3, stream=True)
    assert again.status_code == 200
    assert 40 - used - 20 < int(again.headers["x-ratelimit-remaining-tokens"]) < 40 - used


def test_a_stream_whose_client_leaves_gives_its_place_and_tokens_back(
    http: httpx.Client, gateway: ScriptedGateway
) -> None:
    script, gateway.script = gateway.script, lambda submission, choice: [Gate()]
    try:
        headers = {"authorization": "Bearer single"}
        with http.stream("POST", "/v1/completions", json=BODY | {"stream": True}, headers=headers) as response:
            assert response.status_code == 200
            refused = complete(http, "single")
            assert (refused.status_code, refused.json()["error"]["type"]) == (429, "concurrent_requests")
            assert refused.headers["retry-after"] == "1"
        assert gateway.streams[-1].was_cancelled.wait(10)
    finally:
        gateway.script = script
    assert complete(http, "single").status_code == 200


def test_a_key_may_use_its_models_only(http: httpx.Client) -> None:
    refused = complete(http, "other")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")
    listed = {name: http.get("/v1/models", headers={"x-api-key": name}).json()["data"] for name in ("other", "free")}
    assert [len(each) for each in listed.values()] == [0, 1]


def test_a_key_has_a_highest_priority(http: httpx.Client, gateway: ScriptedGateway) -> None:
    refused = complete(http, "patient", priority=2)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "priority")
    for given, used in (({}, 3), ({"priority": 3}, 3), ({"priority": 9}, 9)):
        assert complete(http, "patient", **given).status_code == 200
        assert gateway.submissions[-1].ask.priority == used
    complete(http, "free")
    assert gateway.submissions[-1].ask.priority == 0, "a control"


def test_metrics_and_the_details_of_health_are_for_those_with_a_key(
    http: httpx.Client, gateway: ScriptedGateway
) -> None:
    assert http.get("/metrics").status_code == 401
    assert "detail" not in http.get("/health").json()
    assert "detail" in http.get("/health", headers={"x-api-key": "free"}).json()
    assert "detail" not in http.get("/health", headers={"x-api-key": "wrong"}).json()
    with running_endpoint(gateway, **{"api-keys": ["old"], "open-metrics": True}) as url:
        assert httpx.get(f"{url}/metrics").status_code == 200
        assert "detail" in httpx.get(f"{url}/health").json()
        assert httpx.get(f"{url}/v1/models").status_code == 401, "a control"


def test_a_key_file_that_cannot_be_used_keeps_the_endpoint_from_starting(
    gateway: ScriptedGateway, tmp_path: Path
) -> None:
    missing = tmp_path / "keys.toml"
    with pytest.raises(TopologyError, match=rf"^api\.key-file: {missing}: there is no such file; make one with"):
        open_edge(gateway, ApiSettings(key_file=str(missing)))
