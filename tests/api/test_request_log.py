"""A line in the log for each request, with numbers and names, and nothing of what was asked or answered."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from histrio.contracts.gateway import Delta
from histrio.errors import Overloaded
from histrio.messages import Extras, RequestState
from histrio.testing.wait import eventually
from histrio_api.testing import Gate, ScriptedGateway, running_endpoint, saying, served_model

if TYPE_CHECKING:
    from pathlib import Path

    from tests.api.conftest import Endpoint

SECRET = "s3cret"


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    def told() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "histrio_api.request_log"]

    with caplog.at_level(logging.INFO, "histrio_api.request_log"):
        yield told
    assert not any(SECRET in line for line in told())


@pytest.mark.parametrize("stream", [False, True])
def test_a_finished_request_has_one_line(endpoint: Endpoint, lines: Any, stream: bool) -> None:
    endpoint.plays([Delta([5, 6], RequestState.DECODING, Extras(num_cached_tokens=1)), *saying([7])])
    answer = endpoint.complete(prompt=f"{SECRET} abc", stream=stream)
    eventually(lambda: len(lines()) == 1)
    (line,) = lines()
    fields = dict(each.split("=") for each in line.split()[1:])
    assert line.startswith(f"{answer.headers['x-request-id']} ")
    assert fields["model"] == "test/scripted"
    assert fields["prompt_tokens"] == str(len(endpoint.gateway.submissions[0].ids))
    assert (fields["cached_tokens"], fields["completion_tokens"], fields["state"]) == ("1", "4", "stop")
    assert 0 <= float(fields["first_token_s"]) <= float(fields["elapsed_s"])


def test_a_request_that_failed_or_was_left_says_so(endpoint: Endpoint, lines: Any) -> None:
    endpoint.plays([Delta([5], RequestState.ERROR, Extras("broken", "generation_failed"))])
    assert endpoint.complete(prompt="a").status_code == 500
    endpoint.plays([Delta([5], RequestState.DECODING), Gate()])
    with endpoint.http.stream(
        "POST", "/v1/completions", json={"model": "test/scripted", "prompt": "a", "stream": True}
    ):
        eventually(lambda: len(endpoint.gateway.streams) == 2)
    eventually(lambda: len(lines()) == 3)
    failed, refused, left = lines()
    assert "state=generation_failed" in failed
    assert refused == "refused path=/v1/completions status=500 code=generation_failed"
    assert "state=cancelled" in left


def test_a_refusal_has_a_line_without_the_clients_words(endpoint: Endpoint, lines: Any) -> None:
    endpoint.complete(prompt="a", best_of=SECRET)
    endpoint.http.get(f"/{SECRET}")
    assert lines() == [
        "refused path=/v1/completions status=400 code=unsupported_parameter",
        "refused path=other status=404 code=unknown_url",
    ]


def test_lines_can_be_switched_off(model_folder: Path, lines: Any) -> None:
    gateway = ScriptedGateway(served_model(model_folder), lambda submission, choice: saying([5]))
    with running_endpoint(gateway, **{"log-requests": False}) as url, httpx.Client(base_url=url) as http:
        assert http.post("/v1/completions", json={"model": "test/scripted", "prompt": "a"}).status_code == 200
        assert http.post("/v1/completions", json={"model": "test/scripted"}).status_code == 400
    assert lines() == []


@pytest.mark.parametrize(
    ("wanted_s", "told"), [(0, "1"), (0.2, "1"), (1, "1"), (2.5, "3"), (float("inf"), "86400"), (float("nan"), "86400")]
)
def test_retry_after_is_a_number_of_whole_seconds(endpoint: Endpoint, wanted_s: float, told: str) -> None:
    endpoint.gateway.refusal = Overloaded("no credit left", retry_after_s=wanted_s)  # type: ignore[arg-type]
    response = endpoint.complete(prompt="a")
    assert (response.status_code, response.headers["retry-after"]) == (429, told)
