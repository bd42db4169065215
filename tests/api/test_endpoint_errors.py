"""Every failure is an OpenAI error object with the right status, and no answer echoes the input."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from histrio.errors import EngineError, HistrioError, Overloaded
from histrio.messages import RequestState
from histrio_api.testing import ScriptedGateway, running_endpoint, saying, served_model, write_tokenizer

if TYPE_CHECKING:
    from tests.api.conftest import Endpoint

HELLO: Any = [{"role": "user", "content": "Hello"}]
SECRET = "s3cret" * 400


def error_of(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.keys() == {"error"}
    error: dict[str, Any] = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert 0 < len(error["message"]) <= 1000
    assert "s3cret" not in response.text
    assert "Traceback" not in response.text
    return error


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", f"/v1/{SECRET}", None, 404, "unknown_url"),
        ("POST", "/nothing", b"{}", 404, "unknown_url"),
        ("GET", "/v1/chat/completions", None, 405, "method_not_supported"),
        ("DELETE", "/v1/models", None, 405, "method_not_supported"),
        ("POST", "/v1/chat/completions", b"{", 400, "invalid_json"),
        ("POST", "/v1/chat/completions", b"", 400, "invalid_json"),
        ("POST", "/v1/completions", b'"' + SECRET.encode() + b'"', 400, "invalid_json"),
        ("POST", "/v1/completions", b"[" * 100_000, 400, "invalid_json"),
        ("POST", "/v1/completions", b'{"x":"' + b"x" * 300_000 + b'"}', 413, "request_too_large"),
        ("POST", "/tokenize", b"{}", 400, "invalid_value"),
    ],
)
def test_what_is_wrong_with_a_request_is_an_error_object(
    endpoint: Endpoint, method: str, path: str, body: bytes | None, status: int, code: str
) -> None:
    response = endpoint.http.request(method, path, content=body)
    assert response.status_code == status
    assert error_of(response)["code"] == code


def test_an_unknown_model_is_not_found(endpoint: Endpoint) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        endpoint.client.chat.completions.create(model=SECRET, messages=HELLO)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert error_of(caught.value.response)["type"] == "invalid_request_error"  # type: ignore[arg-type]
    with pytest.raises(openai.NotFoundError):
        endpoint.client.models.retrieve("other/model")


@pytest.mark.parametrize("model", [{}, {"model": None}, {"model": ""}, {"model": "default"}])
def test_the_served_model_answers_where_none_is_named(endpoint: Endpoint, model: dict[str, Any]) -> None:
    for path, prompt in (("/v1/chat/completions", {"messages": HELLO}), ("/v1/completions", {"prompt": "Hello"})):
        response = endpoint.http.post(path, json=model | prompt)
        assert (response.status_code, response.json()["model"]) == (200, "test/scripted")
    assert endpoint.http.post("/tokenize", json=model | {"prompt": "x"}).status_code == 200
    assert endpoint.http.get("/v1/models/default").status_code == 404, "control: it is no id"


def test_any_name_is_the_served_model_if_the_settings_say_so(endpoint: Endpoint) -> None:
    body = {"model": "gpt-x", "messages": HELLO}
    with running_endpoint(endpoint.gateway, **{"any-model": True}) as url:
        response = httpx.post(f"{url}/v1/chat/completions", json=body)
        assert (response.status_code, response.json()["model"]) == (200, "test/scripted")
        assert httpx.get(f"{url}/v1/models/gpt-x").status_code == 404
    assert endpoint.http.post("/v1/chat/completions", json=body).status_code == 404, "control"


@pytest.mark.parametrize(
    ("refusal", "kind", "status"),
    [
        (Overloaded("all 8 credits are taken", retry_after_s=7), openai.RateLimitError, 429),
        (EngineError("the engine is loading"), openai.InternalServerError, 503),
        (HistrioError("s3cret inner detail"), openai.InternalServerError, 500),
    ],
)
def test_refusals_have_the_clients_exception(
    endpoint: Endpoint, refusal: HistrioError, kind: type[openai.APIStatusError], status: int
) -> None:
    endpoint.gateway.refusal = refusal
    with pytest.raises(kind) as caught:
        endpoint.client.chat.completions.create(model="test/scripted", messages=HELLO)
    assert caught.value.status_code == status
    error_of(caught.value.response)  # type: ignore[arg-type]
    retry_after = {429: "7", 503: "5"}.get(status)
    assert caught.value.response.headers.get("retry-after") == retry_after
    assert endpoint.chat(stream=True).status_code == status, "a stream is refused before it begins"


@pytest.mark.parametrize(("state", "text"), [("loading", "40%"), ("draining", "shutting down"), ("failed", "failed")])
def test_nothing_is_generated_while_the_engine_cannot(endpoint: Endpoint, state: str, text: str) -> None:
    endpoint.gateway.status.state = state
    endpoint.gateway.status.progress = 0.4
    response = endpoint.chat()
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert text in error_of(response)["message"]
    assert endpoint.gateway.submissions == []
    endpoint.gateway.status.state = "recovering"
    assert endpoint.chat().status_code == 200, "control: a recovering engine takes requests"


def test_a_bug_is_a_500_without_details(endpoint: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    def broken(submission: object, choice: int) -> Any:
        raise RuntimeError("s3cret detail")

    endpoint.gateway.script = broken
    response = endpoint.chat()
    assert response.status_code == 500
    assert error_of(response)["type"] == "server_error"
    assert "s3cret detail" in caplog.text, "the log has the traceback"


@pytest.mark.parametrize("error", [MemoryError("s3cret"), RuntimeError("can't start new thread")])
def test_a_request_that_finds_no_memory_may_be_tried_again(endpoint: Endpoint, error: Exception) -> None:
    def exhausted(submission: object, choice: int) -> Any:
        raise error

    script, endpoint.gateway.script = endpoint.gateway.script, exhausted
    response = endpoint.chat()
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert "not enough memory" in error_of(response)["message"]
    endpoint.gateway.script = script
    assert endpoint.chat().status_code == 200, "a control: it goes on"


def test_if_a_later_prompt_is_refused_the_earlier_ones_are_cancelled(endpoint: Endpoint) -> None:
    def script(submission: Any, choice: int) -> Any:
        if len(endpoint.gateway.submissions) == 2:
            raise Overloaded("no credit left")
        return saying([5])

    endpoint.gateway.script = script
    assert endpoint.complete(prompt=[[5], [6]]).status_code == 429
    assert endpoint.gateway.streams[0].cancelled_with is not None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "broken", ["histrio_api.text.tokenizer.Tokenizer.detokenizer", "histrio_api.routes.respond.{}"]
)
def test_what_goes_wrong_after_a_request_was_submitted_leaves_nothing_running(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, broken: str, stream: bool
) -> None:
    def fails(*_arguments: object, **_keywords: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(broken.format("EventStream" if stream else "_answer_at_once"), fails)
    assert endpoint.chat(n=2, stream=stream).status_code == 500
    assert [each.cancelled_with for each in endpoint.gateway.streams] == [RequestState.CANCELLED] * 2


@pytest.fixture(scope="module")
def guarded_gateway(model_folder: Path) -> ScriptedGateway:
    return ScriptedGateway(served_model(model_folder), lambda submission, choice: saying([]))


@pytest.fixture(scope="module")
def guarded(guarded_gateway: ScriptedGateway) -> Iterator[str]:
    settings = {"api-keys": ["first", "sécond"], "cors-origins": ["https://app.example"]}
    with running_endpoint(guarded_gateway, **settings) as url:
        yield url


@pytest.mark.parametrize("key", ["", "Bearer", "Bearer wrong", "Basic first", "Bearer firs", "first"])
def test_a_request_without_a_valid_key_is_a_401(guarded: str, key: str) -> None:
    response = httpx.get(f"{guarded}/v1/models", headers={"authorization": key})
    assert (response.status_code, error_of(response)["code"]) == (401, "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"


def test_a_valid_key_opens_and_health_needs_none(guarded: str) -> None:
    for key in ("first", "sécond"):
        headers = {b"authorization": f"Bearer {key}".encode()}
        assert httpx.get(f"{guarded}/v1/models", headers=headers).status_code == 200
    assert httpx.get(f"{guarded}/health").status_code == 200
    assert httpx.get(f"{guarded}/health/live").status_code == 200
    assert httpx.get(f"{guarded}/metrics").status_code == 401
    with openai.OpenAI(base_url=f"{guarded}/v1", api_key="no") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_submissions_carry_a_label_of_the_key_and_the_user_and_never_the_key(
    guarded: str, guarded_gateway: ScriptedGateway
) -> None:
    guarded_gateway.submissions.clear()
    body = {"model": "test/scripted", "prompt": "Hello", "max_tokens": 2}
    for key, user in (("first", "ada"), ("sécond", 7), ("first", "x" * 999)):
        headers = {b"authorization": f"Bearer {key}".encode()}
        answer = httpx.post(f"{guarded}/v1/completions", json=body | {"user": user}, headers=headers)
        assert answer.headers["x-request-id"] == guarded_gateway.submissions[-1].id
    one, two, three = guarded_gateway.submissions
    assert (one.user, two.user, len(three.user)) == ("ada", "", 256)
    assert one.key == three.key != two.key
    assert all("first" not in each.key and len(each.key) == 16 for each in (one, two))


def test_only_the_named_origins_may_call_from_a_browser(guarded: str) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    allowed = httpx.options(f"{guarded}/v1/chat/completions", headers=asked | {"origin": "https://app.example"})
    assert allowed.headers.get("access-control-allow-origin") == "https://app.example"
    other = httpx.options(f"{guarded}/v1/chat/completions", headers=asked | {"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


def test_a_model_without_chat_template_says_so(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, chat_template=None)
    gateway = ScriptedGateway(served_model(tmp_path), lambda submission, choice: saying([]))
    with running_endpoint(gateway) as url:
        response = httpx.post(f"{url}/v1/chat/completions", json={"model": "test/scripted", "messages": HELLO})
        assert (response.status_code, error_of(response)["code"]) == (400, "no_chat_template")
        completion = httpx.post(f"{url}/v1/completions", json={"model": "test/scripted", "prompt": "Hello"})
        assert completion.status_code == 200, "control: completions need none"


@pytest.mark.parametrize(
    ("path", "known"),
    [("/v1/messages", {"type", "error"}), ("/v1/chat/completions", {"error"}), ("/api/chat", {"error"})],
)
def test_errors_below_the_application_have_the_form_of_their_url_too(guarded: str, path: str, known: set[str]) -> None:
    address = urlsplit(guarded)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer first\r\nTransfer-Encoding: chunked\r\n\r\nno"
    with socket.create_connection((str(address.hostname), int(address.port or 0))) as client:
        client.sendall(head.encode())
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    body = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert body.keys() == known
    assert isinstance(body["error"], str) == path.startswith("/api")
