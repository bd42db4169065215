"""What is left out of a request is named in the answer's header, in the log and in a counter, within bounds."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

import pytest

from histrio_api.request.ignored import MAX_HEADER_CHARS, IgnoredFields
from histrio_api.testing import running_endpoint

if TYPE_CHECKING:
    from tests.api.conftest import Endpoint

HEADER = "x-histrio-ignored"
SECRET = "s3cret"


def counted(endpoint: Endpoint) -> dict[str, int]:
    text = endpoint.http.get("/metrics").text
    return {name: int(count) for name, count in re.findall(r'ignored_fields_total\{field="(.*)"\} (\d+)', text)}


@pytest.mark.parametrize("stream", [False, True])
def test_the_header_names_what_is_left_out_and_nothing_else(endpoint: Endpoint, stream: bool) -> None:
    hello = {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": SECRET}}]}
    response = endpoint.chat(
        messages=[hello, hello],
        reasoning_effort=SECRET,
        seeds=SECRET,
        store=False,
        stream=stream,
        response_format={"type": "text", "colour": SECRET},
    )
    assert response.status_code == 200
    names = "reasoning_effort, seeds, messages[].content[].cache_control, response_format.colour"
    assert set(response.headers[HEADER].split(", ")) == set(names.split(", "))
    assert SECRET not in str(response.headers)
    assert HEADER not in endpoint.chat(stream=stream, store=False, user="me").headers, "control"
    assert endpoint.complete(prompt="a", verbosity="low").headers[HEADER] == "verbosity"


def test_tokenization_names_them_too(endpoint: Endpoint) -> None:
    messages = [{"role": "user", "content": "Hi", "id": "1"}]
    response = endpoint.http.post("/tokenize", json={"messages": messages, "colour": 1})
    assert (response.status_code, response.headers[HEADER]) == (200, "colour, messages[].id")
    detokenized = endpoint.http.post("/detokenize", json={"tokens": [5], "colour": None})
    assert detokenized.headers[HEADER] == "colour"
    assert endpoint.http.post("/tokenize", json={"prompt": "x", "best_of": 2}).status_code == 400, "control"


def test_the_counter_has_hints_by_name_and_the_rest_together(endpoint: Endpoint) -> None:
    before = counted(endpoint)
    messages = [{"role": "user", "content": "Hi", "cache_control": {}}] * 2
    for at in range(3):
        endpoint.chat(messages=messages, verbosity="low", **{f"unknown_{at}": 1})
    after = counted(endpoint)
    added = {name: after[name] - before.get(name, 0) for name in after}
    assert {name: count for name, count in added.items() if count} == {
        "messages[].cache_control": 3,
        "verbosity": 3,
        "other": 3,
    }


def test_the_log_names_each_once_and_no_value(endpoint: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "histrio_api.request.ignored")
    for _ in range(3):
        endpoint.chat(logged_once=SECRET)
    assert [line for line in caplog.messages if "logged_once" in line] == [
        "ignored field logged_once; it is logged once, and counted in ignored_fields_total"
    ]
    assert SECRET not in caplog.text


def test_the_log_ends_after_many_names(
    endpoint: Endpoint, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "histrio_api.request.ignored")
    monkeypatch.setattr("histrio_api.request.ignored._logged", set())
    endpoint.chat(**{f"one_of_many_{at}": 1 for at in range(2000)})
    assert len([line for line in caplog.messages if "one_of_many" in line]) == 512


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([f"f{at}" for at in range(16)], ", ".join(f"f{at}" for at in range(16))),
        ([f"f{at}" for at in range(19)], ", ".join(f"f{at}" for at in range(16)) + ", ...+3"),
        (["x" * 5000] * 2, "x" * 100),
        (["a\r\nb, \u65e5\x7f"], "a??b????"),
        ([""], ""),
    ],
)
def test_the_header_is_short_and_printable(endpoint: Endpoint, names: list[str], expected: str) -> None:
    assert endpoint.chat(**dict.fromkeys(names, 1)).headers[HEADER] == expected


def test_long_names_leave_room_for_the_number_of_the_rest(endpoint: Endpoint) -> None:
    header = endpoint.chat(**{f"{at:03}" + "x" * 97: 1 for at in range(999)}).headers[HEADER]
    assert len(header) <= MAX_HEADER_CHARS
    *shown, rest = header.split(", ")
    assert [len(name) for name in shown] == [100] * 4
    assert rest == "...+995"


@pytest.mark.parametrize("value", ["true", "True", "false", ""])
def test_a_request_may_ask_to_be_refused_instead(endpoint: Endpoint, value: str) -> None:
    headers = {"x-histrio-strict": value}
    body: dict[str, Any] = {"model": "test/scripted", "prompt": "a"}
    response = endpoint.http.post("/v1/completions", json=body | {"verbosity": "low"}, headers=headers)
    assert response.status_code == (400 if value.lower() == "true" else 200)
    if response.status_code == 400:
        assert (response.json()["error"]["param"], HEADER in response.headers) == ("verbosity", False)
    assert endpoint.http.post("/v1/completions", json=body, headers=headers).status_code == 200, "control"


def test_a_strict_server_refuses_for_all(endpoint: Endpoint) -> None:
    import httpx

    with running_endpoint(endpoint.gateway, strict=True) as url, httpx.Client(base_url=url) as http:
        body: dict[str, Any] = {"model": "test/scripted", "messages": [{"role": "user", "content": "x"}]}
        for fields in ({"seeds": 1}, {"response_format": {"type": "text", "seeds": 1}}):
            response = http.post("/v1/chat/completions", json=body | fields)
            assert response.status_code == 400
            assert response.json()["error"]["code"] == "unknown_parameter"
        assert http.post("/v1/chat/completions", json=body).status_code == 200, "control"


def test_each_is_named_once() -> None:
    ignored = IgnoredFields()
    for at in range(3):
        ignored.add("messages[].x", f"messages[{at}].x")
    assert ignored.paths == ["messages[].x"]
