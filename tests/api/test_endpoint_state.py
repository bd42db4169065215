"""/health, /metrics, /version, /v1/models, /tokenize, /detokenize and /tokenizer_info."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import msgspec
import pytest

from histrio.errors import Overloaded
from histrio_api.shared.metrics import EndpointMetrics, Histogram, exposition
from histrio_api.testing import CHATML, ScriptedGateway, running_endpoint, saying, served_model, write_tokenizer

if TYPE_CHECKING:
    from tests.api.conftest import Endpoint

SAMPLE = re.compile(r'^[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? ([0-9.e+-]+|\+Inf)$')


def samples(endpoint: Endpoint) -> dict[str, float]:
    response = endpoint.http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = [line for line in response.text.splitlines() if not line.startswith("#")]
    assert all(SAMPLE.match(line) for line in lines), [line for line in lines if not SAMPLE.match(line)]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


@pytest.mark.parametrize("state", ["loading", "recovering", "draining", "failed"])
def test_health_is_503_with_the_reason_unless_ready(endpoint: Endpoint, state: str) -> None:
    status = endpoint.gateway.status
    status.state, status.detail, status.progress = state, "stage 0: weights", 0.5
    response = endpoint.http.get("/health")
    assert response.status_code == 503
    body = response.json()
    assert (body["status"], body["detail"], body["progress"]) == (state, "stage 0: weights", 0.5)
    assert endpoint.http.get("/health/live").status_code == 200
    status.state = "ready"
    assert endpoint.http.get("/health").status_code == 200


def test_models_are_listed_and_shown_also_with_a_slash(endpoint: Endpoint) -> None:
    (listed,) = endpoint.client.models.list().data
    assert (listed.id, listed.object, listed.created) == ("test/scripted", "model", 1_700_000_000)
    assert endpoint.client.models.retrieve("test/scripted") == listed
    assert endpoint.http.get("/v1/models/test%2Fscripted").json()["max_model_len"] == 512


def test_version_is_the_installed_one(endpoint: Endpoint) -> None:
    from importlib.metadata import version

    assert endpoint.http.get("/version").json() == {"version": version("histrio")}


def test_metrics_count_what_happened(endpoint: Endpoint) -> None:
    endpoint.says("some words")
    before = samples(endpoint)
    endpoint.chat()
    endpoint.chat(stream=True)
    endpoint.chat(n=0)
    endpoint.gateway.refusal = Overloaded("no credit left")
    endpoint.chat()
    endpoint.http.get("/scanner/1")
    endpoint.http.get("/scanner/2")
    after = samples(endpoint)

    def gained(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert gained('histrio_http_requests_total{path="/v1/chat/completions",status="200"}') == 2
    assert gained('histrio_http_requests_total{path="/v1/chat/completions",status="400"}') == 1
    assert gained('histrio_http_requests_total{path="other",status="404"}') == 2
    assert gained('histrio_http_requests_total{path="/v1/chat/completions",status="429"}') == 1
    num_tokens = len(endpoint.ids("some words")) + 1
    assert gained("histrio_http_completion_tokens_total") == 2 * num_tokens
    assert gained("histrio_time_to_first_token_seconds_count") == 2
    assert gained("histrio_inter_token_seconds_count") == 2 * (num_tokens - 1)
    assert gained("histrio_request_seconds_count") == 2, "refused requests take no time"


def test_the_gateways_own_metrics_are_shown(endpoint: Endpoint) -> None:
    status = endpoint.gateway.status
    status.counters = {'restarts_total{child="engine"}': 2, 'restarts_total{child="stage1"}': 1}
    status.gauges = {"free_blocks": 12.5}
    status.state = "recovering"
    found = samples(endpoint)
    assert found['histrio_restarts_total{child="engine"}'] == 2
    assert found["histrio_free_blocks"] == 12.5
    assert (found['histrio_state{state="recovering"}'], found['histrio_state{state="ready"}']) == (1, 0)
    text = exposition(EndpointMetrics(), status)
    types = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(types) == len(set(types)), "a family is announced once"


def test_histogram_buckets_are_cumulative() -> None:
    histogram = Histogram("Test.", (1.0, 2.0))
    for value, times in ((0.5, 1), (1.0, 2), (1.5, 1), (9.0, 1)):
        histogram.observe(value, times)
    assert list(histogram.lines("x"))[2:] == [
        'x_bucket{le="1"} 3',
        'x_bucket{le="2"} 4',
        'x_bucket{le="+Inf"} 5',
        "x_sum 13",
        "x_count 5",
    ]


def test_tokenize_and_detokenize_are_inverse(endpoint: Endpoint) -> None:
    text = "Hello 日本語 🙂"
    tokens = endpoint.http.post("/tokenize", json={"prompt": text, "return_token_strs": True}).json()
    assert (tokens["count"], tokens["tokens"][0], tokens["token_strs"][0]) == (len(tokens["tokens"]), 0, "<|bos|>")
    back = endpoint.http.post("/detokenize", json={"tokens": tokens["tokens"]}).json()
    assert back == dict.fromkeys(("prompt", "content"), f"<|bos|>{text}")


def test_tokenize_counts_a_chat_as_the_endpoint_does(endpoint: Endpoint) -> None:
    endpoint.chat()
    messages = [{"role": "user", "content": "Hello"}]
    tokens = endpoint.http.post("/tokenize", json={"model": "test/scripted", "messages": messages}).json()
    assert tokens["tokens"] == endpoint.gateway.submissions[0].ids


def test_the_tokens_that_begin_and_end_a_text_are_those_that_the_tokenizer_declares(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    info = endpoint.http.get("/tokenizer_info").json()
    assert (info["bos_token"], info["eos_token"], info["model_max_length"]) == ("<|bos|>", "<|im_end|>", 512)
    assert info["chat_template"] == CHATML
    write_tokenizer(tmp_path, None)
    known = msgspec.structs.replace(served_model(tmp_path), bos_id=None, eos_ids=[1, 2])
    with running_endpoint(ScriptedGateway(known, lambda submission, choice: saying([]))) as url:
        undeclared = httpx.get(f"{url}/tokenizer_info").json()
    assert (undeclared["bos_token"], undeclared["chat_template"]) == (None, None)
    assert undeclared["eos_token"] == "<|im_start|>", "control: without a template the configuration's first"


def test_detokenize_refuses_ids_outside_the_vocabulary(endpoint: Endpoint) -> None:
    response = endpoint.http.post("/detokenize", json={"tokens": [400]})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "tokens")
    assert endpoint.http.post("/detokenize", json={"tokens": [399]}).status_code == 200
