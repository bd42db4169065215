"""The URLs of ParallaxPay and MLX ParaLLM, in the shapes that they document, and what `/v1/configure` changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from histrio.contracts.gateway import Delta
from histrio.messages import Extras, RequestState, Tune
from histrio.testing.wait import eventually_async
from histrio_api.keys.key import hash_of
from histrio_api.testing import ScriptedGateway, running_endpoint, saying, served_model
from tests.api.conftest import Endpoint, Served

CHATML = "{% for each in messages %}{{ each.role }}: {{ each.content }}\n{% endfor %}assistant:"
BOUNDS = {"batch_slots": 8, "max_batch_size": 8, "scheduler_wait_ms": 0.0}
CONFIGURED = {
    "use_speculative": True,
    "max_speculation": None,
    "max_batch_size": 8,
    "batch_timeout_ms": 0.0,
    "any_model": False,
    "keep_alive_s": 15.0,
    "log_requests": True,
    "max_choices": 16,
    "max_prompts": 64,
    "strict": False,
}


def post(endpoint: Endpoint, path: str, **fields: Any) -> httpx.Response:
    return endpoint.http.post(path, json=fields)


# --- ParallaxPay -----------------------------------------------------------------------------------------------------


def test_an_inference_is_a_chat_with_a_price_class(endpoint: Endpoint) -> None:
    response = post(endpoint, "/v1/inference", model="test/scripted", prompt="Tell me a joke", max_tokens=256)
    answer = response.json()
    assert answer["metadata"].pop("duration_ms") > 0
    submission = endpoint.gateway.submissions[-1]
    num_tokens = len(submission.ids) + len(endpoint.ids("Hi!")) + 1
    assert answer == {
        "success": True,
        "completion": "Hi!",
        "tokens": num_tokens,
        "tier": "standard",
        "metadata": {"provider": "histrio", "model": "test/scripted", "network": "local"},
    }
    prompt = endpoint.tokenizer.decode(submission.ids, skip_special=False)
    assert prompt == "<|im_start|>user\nTell me a joke<|im_end|>\n<|im_start|>assistant\n"


def test_an_inference_takes_messages_too_and_has_a_hundred_tokens(endpoint: Endpoint) -> None:
    answer = post(endpoint, "/v1/inference", messages=[{"role": "user", "content": "Hello"}]).json()
    assert (answer["completion"], answer["tier"]) == ("Hi!", "basic")
    assert endpoint.gateway.submissions[-1].max_new_tokens == 100


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"prompt": 7}, "prompt: must be a text"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, "prompt: give either prompt or messages"),
        ({}, "messages: the field is required"),
        ({"prompt": "a", "stream": True}, "stream is not supported by /v1/inference; leave it out"),
    ],
)
def test_an_inference_that_cannot_be_had_says_why(endpoint: Endpoint, given: dict[str, Any], named: str) -> None:
    response = post(endpoint, "/v1/inference", **given)
    assert (response.status_code, response.json()) == (400, {"success": False, "error": named})


# --- MLX ParaLLM -----------------------------------------------------------------------------------------------------


def test_a_prompt_is_continued(endpoint: Endpoint) -> None:
    given = {"prompt": "Explain what a firewall is", "max_tokens": 100, "temperature": 0.7, "top_p": 0.95}
    answer = post(endpoint, "/v1/generate", **given, stream=False, use_speculative=True).json()
    assert answer.pop("generation_time") > 0
    assert answer == {"text": "Hi!", "tokens_generated": len(endpoint.ids("Hi!")) + 1, "method": "continuous_batching"}
    submission = endpoint.gateway.submissions[-1]
    assert submission.ids == [0, *endpoint.ids("Explain what a firewall is")]
    assert submission.ask.sampling == {"temperature": 0.7, "top_p": 0.95}


def test_a_continuation_may_be_streamed(endpoint: Endpoint) -> None:
    events = post(endpoint, "/v1/generate", prompt="Hello", stream=True).text.split("\n\n")
    *pieces, last, rest = [each for each in events if not each.startswith(":")]
    assert (last, rest) == ("data: [DONE]", "")
    assert "".join(json.loads(each.removeprefix("data: "))["text"] for each in pieces) == "Hi!"
    endpoint.plays([Delta([], RequestState.ERROR, Extras(reason="it broke", code="generation_failed"))])
    assert post(endpoint, "/v1/generate", prompt="Hello", stream=True).text == 'data: {"error":"it broke"}\n\n'


@pytest.mark.parametrize(
    ("wish", "most"), [({}, None), ({"use_speculative": False}, 0), ({"use_speculative": True}, 64)]
)
def test_a_request_says_whether_tokens_are_drafted(endpoint: Endpoint, wish: dict[str, bool], most: int | None) -> None:
    assert post(endpoint, "/v1/generate", prompt="Hello", **wish).status_code == 200
    assert endpoint.gateway.submissions[-1].ask.max_speculation == most


def test_a_method_is_what_was_done(endpoint: Endpoint) -> None:
    drafted = Extras(num_drafted=3, num_accepted=2)
    endpoint.plays([Delta([9, 10, 11], RequestState.DECODING, drafted), Delta([2], RequestState.FINISHED_EOS)])
    assert post(endpoint, "/v1/generate", prompt="Hello").json()["method"] == "speculative"


def test_several_prompts_are_continued_side_by_side(endpoint: Endpoint) -> None:
    texts = ["one", "two", "three"]
    endpoint.gateway.script = lambda submission, choice: saying(
        endpoint.ids(endpoint.tokenizer.decode(submission.ids).upper())
    )
    answer = post(endpoint, "/v1/generate_batch", prompts=texts, max_tokens=100, temperature=0.7).json()
    assert [each["text"] for each in answer["results"]] == ["ONE", "TWO", "THREE"]
    assert answer["batch_size"] == 3
    assert 0 < max(each["generation_time"] for each in answer["results"]) <= answer["total_time"]


@pytest.mark.parametrize(
    ("path", "given", "named"),
    [
        ("generate", {}, "prompt"),
        ("generate", {"prompt": "a", "use_speculative": True, "max_speculation": 3}, "use_speculative"),
        ("generate", {"prompt": "a", "temperature": 9}, "temperature"),
        ("generate_batch", {"prompts": []}, "prompts"),
        ("generate_batch", {"prompts": ["a"] * 65}, "prompts"),
        (
            "generate_batch",
            {"prompts": ["a"], "stream": True},
            "stream is not supported by /v1/generate_batch; leave it out",
        ),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(
    endpoint: Endpoint, path: str, given: dict[str, Any], named: str
) -> None:
    response = post(endpoint, f"/v1/{path}", **given)
    assert response.status_code == 400
    assert response.json()["detail"].split(":")[0] == named


def test_statistics_are_what_was_done(endpoint: Endpoint) -> None:
    status = endpoint.gateway.status
    status.counters = {
        **{"steps_total": 10, "scheduled_rows_total": 42, "generated_tokens_total": 123},
        **{"drafted_tokens_total": 20, "accepted_tokens_total": 17, "drafted_rows_total": 5},
    }
    status.gauges = {"running_sequences": 3, "waiting_sequences": 1}
    before = endpoint.http.get("/v1/stats").json()
    post(endpoint, "/v1/generate", prompt="Hello")
    after = endpoint.http.get("/v1/stats").json()
    assert after["total_requests"] == before["total_requests"] + 1
    assert after["average_latency"] > 0
    assert after["batching_stats"] == {
        **{"total_batches": 10, "avg_batch_size": 4.2, "total_tokens": 123, "running": 3, "waiting": 1},
    }
    assert after["speculative_stats"] == {"acceptance_rate": 0.85, "draft_length": 4}


# --- what changes while it runs --------------------------------------------------------------------------------------


@pytest.fixture
def own(model_folder: Path) -> Iterator[tuple[httpx.Client, ScriptedGateway]]:
    """An endpoint that is changed by no other test."""
    gateway = ScriptedGateway(served_model(model_folder), lambda submission, choice: saying([9]))
    gateway.status.gauges = dict(BOUNDS)
    with running_endpoint(gateway) as url, httpx.Client(base_url=url) as http:
        yield http, gateway


def test_what_may_change_changes(own: tuple[httpx.Client, ScriptedGateway]) -> None:
    http, gateway = own
    assert http.post("/v1/configure").json() == CONFIGURED
    asked = http.post("/v1/configure?use_speculative_decoding=true&max_batch_size=4").json()
    assert asked == CONFIGURED | {"max_batch_size": 4}
    assert gateway.tunings == [Tune(max_batch_size=4)]

    hello = {"prompt": "Hello"}
    assert http.post("/v1/configure", json={"use_speculative_decoding": False}).json()["use_speculative"] is False
    http.post("/v1/completions", json=hello)
    http.post("/v1/completions", json=hello | {"max_speculation": 3})
    http.post("/v1/generate", json=hello | {"use_speculative": True})
    assert [each.ask.max_speculation for each in gateway.submissions] == [0, 3, 64], "a request's own wish comes first"

    assert http.post("/v1/completions", json=hello | {"model": "other", "seeds": 1}).status_code == 404, "control"
    changed = http.post("/v1/configure", params={"any-model": "True", "max_choices": "1"}).json()
    assert (changed["any_model"], changed["max_choices"]) == (True, 1)
    assert http.post("/v1/completions", json=hello | {"model": "other", "seeds": 1}).status_code == 200
    assert http.post("/v1/completions", json=hello | {"n": 2}).status_code == 400
    http.post("/v1/configure", json={"strict": True, "batch_timeout_ms": 50})
    assert http.post("/v1/completions", json=hello | {"seeds": 1}).status_code == 400
    assert gateway.tunings[1:] == [Tune(scheduler_wait_ms=50)]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"kv_block_size": 16, "strict": True}, "kv_block_size: cannot change while the server runs"),
        ({"port": 1, "strict": True}, "port: cannot change while the server runs"),
        ({"colour": "red", "strict": True}, "colour: unknown"),
        ({"max_batch_size": 9, "strict": True}, "max_batch_size: at most 8"),
        ({"max_batch_size": 0, "strict": True}, "max_batch_size"),
        ({"max_speculation": 65, "strict": True}, "max_speculation"),
        ({"max_speculation": 3, "use_speculative_decoding": False, "strict": True}, "max_speculation"),
        ({"strict": "perhaps"}, "strict"),
    ],
)
def test_the_rest_is_refused_by_name_and_then_nothing_changes(
    own: tuple[httpx.Client, ScriptedGateway], given: dict[str, Any], named: str
) -> None:
    http, gateway = own
    for response in (http.post("/v1/configure", json=given), http.post("/v1/configure", params=given)):
        assert response.status_code == 400
        assert response.json()["detail"].startswith(named)
    assert http.post("/v1/configure").json() == CONFIGURED
    assert not gateway.tunings


def test_an_engine_has_bounds_of_its_own(own: tuple[httpx.Client, ScriptedGateway]) -> None:
    http, gateway = own
    gateway.status.gauges = {}
    assert (
        http.post("/v1/configure?max_batch_size=2").json()["detail"].startswith("max_batch_size: this server goes by")
    )
    assert http.post("/v1/configure?use_speculative_decoding=true").status_code == 200


def test_only_an_admins_key_changes_the_server(model_folder: Path) -> None:
    gateway = ScriptedGateway(served_model(model_folder), lambda submission, choice: saying([9]))
    keys = [
        {"name": "user", "hash": hash_of(b"user-key")},
        {"name": "admin", "hash": hash_of(b"admin-key"), "admin": True},
    ]
    with running_endpoint(gateway, key=keys) as url, httpx.Client(base_url=url) as http:
        answers = [
            http.post("/v1/configure?strict=true", headers={"authorization": f"Bearer {key}"}).status_code
            for key in ("user-key", "admin-key")
        ]
    assert answers == [403, 200]


@pytest.mark.anyio
async def test_fewer_run_together_once_it_is_told(
    random_weights: Callable[..., AbstractAsyncContextManager[Served]],
) -> None:
    async with random_weights(CHATML) as served, httpx.AsyncClient(base_url=served.url) as http:
        counters = served.harness.gateway.status.counters

        async def rows_per_step(num_prompts: int) -> float:
            """Of so many prompts side by side."""
            before = dict(counters)
            given = {"prompts": ["Hello"] * num_prompts, "max_tokens": 24, "ignore_eos": True, "use_speculative": False}
            answer = await http.post("/v1/generate_batch", json=given)
            assert answer.status_code == 200, answer.text
            num_tokens = 24 * num_prompts + before.get("generated_tokens_total", 0)
            await eventually_async(lambda: counters.get("generated_tokens_total", 0) == num_tokens)
            rows, steps = (counters[each] - before.get(each, 0) for each in ("scheduled_rows_total", "steps_total"))
            return rows / steps

        assert await rows_per_step(4) > 2
        assert (await http.post("/v1/configure?max_batch_size=1")).json()["max_batch_size"] == 1
        assert await rows_per_step(4) == 1
