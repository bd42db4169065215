"""`return_token_ids` and `truncate_prompt_tokens`: ids beside the text, and prompts cut to a number of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from histrio.messages import RequestState
from tests.api.conftest import HELLO, Endpoint

END = 2


def chunks(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def test_whole_answers_have_the_ids_of_prompt_and_tokens(endpoint: Endpoint) -> None:
    said = [*endpoint.ids("Hi!"), END]
    chat = endpoint.chat(return_token_ids=True).json()
    assert chat["prompt_token_ids"] == endpoint.gateway.submissions[-1].ids
    assert chat["choices"][0]["token_ids"] == said
    text = endpoint.complete(prompt=["Hello", "you"], return_token_ids=True).json()
    assert [each["prompt_token_ids"] for each in text["choices"]] == [
        [0, *endpoint.ids(each)] for each in ("Hello", "you")
    ]
    assert [each["token_ids"] for each in text["choices"]] == [said, said]
    plain = endpoint.chat().json()
    assert "prompt_token_ids" not in plain, "control: only where they are asked for"
    assert "token_ids" not in plain["choices"][0]


@pytest.mark.parametrize("path", ["chat", "complete"])
def test_the_ids_of_a_stream_are_those_of_the_whole_answer(endpoint: Endpoint, path: str) -> None:
    send: Any = endpoint.chat if path == "chat" else lambda **fields: endpoint.complete(prompt="Hello", **fields)
    found = [each["choices"][0] for each in chunks(send(stream=True, return_token_ids=True).text)]
    assert [token for each in found for token in each.get("token_ids", [])] == [*endpoint.ids("Hi!"), END]
    assert found[0]["prompt_token_ids"] == endpoint.gateway.submissions[-1].ids
    assert all("prompt_token_ids" not in each for each in found[1:])
    assert not [each for each in chunks(send(stream=True).text) if "token_ids" in each["choices"][0]], "control"


def test_tokens_of_a_stop_string_are_among_them(endpoint: Endpoint) -> None:
    endpoint.says("one two three")
    answer = endpoint.complete(prompt="Count", stop=" two", return_token_ids=True).json()
    choice = answer["choices"][0]
    assert choice["text"] == "one"
    assert len(choice["token_ids"]) == answer["usage"]["completion_tokens"]
    assert endpoint.tokenizer.decode(choice["token_ids"]).startswith("one two")
    assert endpoint.gateway.streams[-1].cancelled_with is RequestState.FINISHED_STOP


def test_a_longer_prompt_keeps_as_many_tokens_as_are_asked_for(endpoint: Endpoint) -> None:
    ids = [0, *endpoint.ids("Hello world, numbers")]
    for cut, left in (
        ({"truncate_prompt_tokens": 3}, ids[-3:]),
        ({"truncate_prompt_tokens": 3, "truncation_side": "right"}, ids[:3]),
        ({"truncate_prompt_tokens": 400}, ids),
        ({"truncate_prompt_tokens": -1}, ids),
    ):
        for prompt in ("Hello world, numbers", ids):
            assert endpoint.complete(prompt=prompt, **cut).status_code == 200
            assert endpoint.gateway.submissions[-1].ids == left
    endpoint.chat()
    whole = endpoint.gateway.submissions[-1].ids
    endpoint.chat(truncate_prompt_tokens=4)
    assert endpoint.gateway.submissions[-1].ids == whole[-4:]


def test_a_prompt_beyond_the_context_is_cut_to_leave_room(endpoint: Endpoint) -> None:
    limit = endpoint.gateway.model.max_sequence_length
    prompt = "Hello " * limit
    assert endpoint.complete(prompt=prompt).status_code == 400, "control"
    assert endpoint.complete(prompt=prompt, truncate_prompt_tokens=-1, max_tokens=7).status_code == 200
    submission = endpoint.gateway.submissions[-1]
    assert (len(submission.ids), submission.max_new_tokens) == (limit - 7, 7)
    messages = [{"role": "user", "content": prompt}]
    assert endpoint.chat(messages=messages, truncate_prompt_tokens=-1, max_tokens=7).status_code == 200
    assert len(endpoint.gateway.submissions[-1].ids) == limit - 7


def test_what_a_cut_prompt_cannot_be_is_refused(endpoint: Endpoint) -> None:
    for given in (
        {"echo": True, "truncate_prompt_tokens": 3},
        {"truncate_prompt_tokens": -2},
        {"truncation_side": "top"},
    ):
        refused = endpoint.complete(prompt="Hello", **given)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] in ("truncate_prompt_tokens", "truncation_side")
    assert endpoint.http.post("/api/chat", json={"messages": HELLO, "return_token_ids": True}).status_code == 400


def test_other_names_of_health_and_the_load(endpoint: Endpoint) -> None:
    for path in ("/ready", "/ping"):
        assert endpoint.http.get(path).json() == endpoint.http.get("/health").json()
    endpoint.gateway.status.num_unfinished = 5
    assert endpoint.http.get("/load").json() == {"server_load": 5}
    endpoint.gateway.status.state = "loading"
    assert [endpoint.http.get(path).status_code for path in ("/ready", "/ping", "/health/live")] == [503, 503, 200]
