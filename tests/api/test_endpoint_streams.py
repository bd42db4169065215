"""Streams on the wire: chunk form, comments, errors on the way, and clients that leave."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from histrio.contracts.gateway import Delta
from histrio.messages import Extras, RequestState
from histrio_api.testing import Gate

if TYPE_CHECKING:
    from tests.api.conftest import Endpoint

CHAT: Any = {"model": "test/scripted", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
DEADLINE_S = 10.0


def events(endpoint: Endpoint, **fields: Any) -> list[bytes]:
    response = endpoint.chat(stream=True, **fields)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    *parts, rest = response.content.split(b"\n\n")
    assert rest == b""
    return parts


def test_every_event_is_one_line_of_json_and_done_is_last(endpoint: Endpoint) -> None:
    endpoint.says('line\nbreak "quoted" \u2028 日本')
    *chunks, done = events(endpoint)
    assert done == b"data: [DONE]"
    for chunk in chunks:
        assert chunk.startswith(b"data: {")
        assert b"\n" not in chunk
        parsed = json.loads(chunk.removeprefix(b"data: "))
        assert parsed["choices"][0].keys() == {"index", "delta", "logprobs", "finish_reason"}
        assert parsed.keys() == {"id", "object", "created", "model", "system_fingerprint", "choices"}


def test_tokens_of_one_step_are_one_chunk(endpoint: Endpoint) -> None:
    ids = endpoint.ids("several tokens at once")
    endpoint.plays([Delta(ids, RequestState.DECODING), Delta([2], RequestState.FINISHED_EOS)])
    assert len(ids) > 3
    assert len(events(endpoint)) == 4  # role, text, finish, done


def test_a_waiting_stream_gets_comments(endpoint: Endpoint) -> None:
    gate = Gate()
    endpoint.plays([gate, Delta([2], RequestState.FINISHED_EOS)])
    with endpoint.http.stream("POST", "/v1/chat/completions", json=CHAT) as response:
        lines = response.iter_lines()
        assert next(line for line in lines if line.startswith(":")) == ": ping"
        endpoint.gateway.streams[0].is_recovering = True
        assert next(line for line in lines if line.startswith(": r")) == ": recovering"
        gate.open()
        assert "data: [DONE]" in list(lines)


def test_a_lively_stream_gets_no_comments(endpoint: Endpoint) -> None:
    endpoint.says("a few words")
    assert not [event for event in events(endpoint) if event.startswith(b":")]


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        ([Delta([], RequestState.ERROR, Extras("stage 1 failed"))], 500, "generation_failed"),
        ([Delta([], RequestState.ERROR, Extras("too slow", "request_timeout"))], 504, "request_timeout"),
        ([Delta([], RequestState.ERROR, Extras("send it again", "engine_restarted"))], 503, "engine_restarted"),
        ([Delta([], RequestState.CANCELLED)], 503, "engine_unavailable"),
        ([], 500, "generation_failed"),
        ([RuntimeError("secret detail")], 500, "internal_error"),
    ],
)
def test_an_error_ends_a_stream_with_an_error_event(
    endpoint: Endpoint, script: list[Any], status: int, code: str
) -> None:
    endpoint.plays([Delta(endpoint.ids("some"), RequestState.DECODING), *script])
    *_, text, last = events(endpoint)
    assert b"some" in text or b"so" in text
    error = json.loads(last.removeprefix(b"data: "))["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert "secret" not in error["message"]
    with pytest.raises(openai.APIError):
        list(endpoint.client.chat.completions.create(**CHAT))

    plain = endpoint.chat()
    assert (plain.status_code, plain.json()["error"]["code"]) == (status, code)
    assert "secret" not in plain.text


def test_an_error_of_one_choice_ends_the_others(endpoint: Endpoint) -> None:
    gate = Gate()

    def script(submission: object, choice: int) -> list[Any]:
        return [Delta([], RequestState.ERROR, Extras("failed"))] if choice else [gate]

    endpoint.gateway.script = script
    assert b"failed" in events(endpoint, n=3)[-1]
    assert endpoint.gateway.streams[0].cancelled_with is RequestState.CANCELLED
    endpoint.gateway.streams.clear()
    assert endpoint.chat(n=3).status_code == 500
    assert endpoint.gateway.streams[0].cancelled_with is RequestState.CANCELLED


@pytest.mark.parametrize("num_choices", [1, 3])
def test_a_client_that_leaves_a_stream_cancels_it(endpoint: Endpoint, num_choices: int) -> None:
    endpoint.plays([Delta(endpoint.ids("a"), RequestState.DECODING), Gate()])
    with endpoint.http.stream("POST", "/v1/chat/completions", json=CHAT | {"n": num_choices}) as response:
        received = response.iter_bytes()  # held: httpx closes the connection with the iterator
        next(received)
        assert not any(stream.was_cancelled.is_set() for stream in endpoint.gateway.streams)
    assert len(endpoint.gateway.streams) == num_choices
    assert all(stream.was_cancelled.wait(DEADLINE_S) for stream in endpoint.gateway.streams)


@pytest.mark.parametrize(
    ("path", "num_choices"), [("chat/completions", 1), ("chat/completions", 2), ("completions", 1)]
)
def test_a_client_that_leaves_a_plain_request_cancels_it(endpoint: Endpoint, path: str, num_choices: int) -> None:
    endpoint.plays([Delta(endpoint.ids("a"), RequestState.DECODING), Gate()])
    body = CHAT | {"n": num_choices, "stream": False}
    if path == "completions":
        body = {"model": "test/scripted", "prompt": "a"}
    with httpx.Client(base_url=endpoint.url, timeout=httpx.Timeout(DEADLINE_S, read=0.3)) as impatient:
        with pytest.raises(httpx.ReadTimeout):
            impatient.post(f"/v1/{path}", json=body)
    assert len(endpoint.gateway.streams) == num_choices
    assert all(stream.was_cancelled.wait(DEADLINE_S) for stream in endpoint.gateway.streams)


def test_a_finished_stream_is_not_cancelled(endpoint: Endpoint) -> None:
    endpoint.chat()
    events(endpoint)
    assert [stream.cancelled_with for stream in endpoint.gateway.streams] == [None, None]
