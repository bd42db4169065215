"""Fields that other servers have, in forms where they mean the same, or nothing: the official clients send them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.api.conftest import Endpoint

MODEL = "test/scripted"
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]
BEGUN = [*HELLO, {"role": "assistant", "content": "It is"}]
GO_ON = {"continue_final_message": True, "add_generation_prompt": False}
FORMS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/completions": {"prompt": "a"},
    "/v1/responses": {"input": "a"},
    "/v1/messages": {"messages": HELLO},
}
"""Path → what a request needs."""


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("more", [{}, GO_ON])
def test_an_echoed_chat_begins_with_the_last_message(endpoint: Endpoint, stream: bool, more: dict[str, Any]) -> None:
    endpoint.says(" late.")
    fields: dict[str, Any] = {"model": MODEL, "messages": BEGUN, "n": 2, "stream": stream}
    answer: Any = endpoint.client.chat.completions.create(**fields, extra_body={"echo": True} | more)
    texts = ["", ""]
    for each in answer if stream else [answer]:
        for choice in each.choices:
            texts[choice.index] += (choice.delta if stream else choice.message).content or ""
    assert texts == ["It is late."] * 2
    plain = endpoint.chat(messages=BEGUN, **more).json()["choices"][0]["message"]["content"]
    assert plain == " late.", "a control: without echo"


def test_an_echo_has_parts_as_one_text_and_no_log_probabilities(endpoint: Endpoint) -> None:
    endpoint.says(" late.")
    parts = [{"type": "text", "text": "It"}, {"type": "text", "text": " is"}]
    said = endpoint.chat(messages=[*HELLO, {"role": "assistant", "content": parts}], echo=True, logprobs=True).json()
    choice = said["choices"][0]
    assert choice["message"]["content"] == "It is late."
    assert "".join(each["token"] for each in choice["logprobs"]["content"]) == " late."


def test_an_echo_of_what_the_client_says_has_no_effect_and_is_named(endpoint: Endpoint) -> None:
    answer = endpoint.chat(echo=True)
    assert answer.json()["choices"][0]["message"]["content"] == "Hi!"
    assert answer.headers["x-histrio-ignored"] == "echo"
    assert "x-histrio-ignored" not in endpoint.chat(echo=True, messages=BEGUN).headers, "a control"


@pytest.mark.parametrize("path", FORMS)
@pytest.mark.parametrize(
    "field",
    [
        {"n": 1},
        {"logprobs": False},
        {"top_logprobs": 0},
        {"echo": False},
        {"truncation_side": "left"},
        {"return_token_ids": False},
        {"logprob_token_ids": []},
    ],
    ids=lambda field: next(iter(field)),
)
def test_what_asks_for_nothing_is_taken_by_every_form(endpoint: Endpoint, path: str, field: dict[str, Any]) -> None:
    body = {"model": MODEL, "max_tokens": 4} | FORMS[path] | field
    answer = endpoint.http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert "x-histrio-ignored" not in answer.headers


def test_what_asks_for_something_is_refused_where_it_cannot_be_given(endpoint: Endpoint) -> None:
    for field in ({"n": 2}, {"logprobs": True}, {"echo": True}, {"return_token_ids": True}):
        answer = endpoint.http.post("/v1/messages", json={"max_tokens": 4} | FORMS["/v1/messages"] | field)
        assert answer.status_code == 400
        assert next(iter(field)) in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", FORMS)
def test_the_newer_name_of_the_bound_is_one_everywhere(endpoint: Endpoint, path: str) -> None:
    answer = endpoint.http.post(path, json={"max_completion_tokens": 3} | FORMS[path])
    assert answer.status_code == 200, answer.text
    assert endpoint.gateway.submissions[-1].max_new_tokens == 3
    two = endpoint.http.post(path, json={"max_completion_tokens": 3, "max_tokens": 4} | FORMS[path])
    assert two.status_code == 400
    assert "differs from" in two.json()["error"]["message"]


@pytest.mark.parametrize("path", [*FORMS, "/v1/nothing"])
def test_the_clients_name_of_a_request_comes_back(endpoint: Endpoint, path: str) -> None:
    body = {"max_tokens": 4} | FORMS.get(path, {})
    named = endpoint.http.post(path, json=body, headers={"x-request-id": "mine-1"})
    assert named.headers["x-request-id"] == "mine-1"
    for bad in ("x" * 129, "a b", ""):
        answer = endpoint.http.post(path, json=body, headers={"x-request-id": bad})
        assert answer.headers.get("x-request-id") != bad, "what is no plain name is not repeated"
