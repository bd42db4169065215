"""A bound of the reasoning over HTTP: under all of its names, with forms and tools, whole and streamed."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.api.test_structured_output_served import FORM, HELLO, OPENS, PLAIN, QWEN, favouring, is_valid

pytestmark = [pytest.mark.anyio, pytest.mark.slow_start, pytest.mark.timeout(90)]  # replicas, and checking processes

MOST = 7
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
NAMES: list[dict[str, Any]] = [
    {"thinking_budget": MOST},
    {"thinking_token_budget": MOST},
    {"reasoning_budget": MOST},
    {"max_reasoning_tokens": MOST, "reasoning": {"max_tokens": MOST}},
    {"reasoning": {"max_tokens": MOST}},
    {"thinking": {"type": "enabled", "budget_tokens": MOST}},
]


async def ask(http: httpx.AsyncClient, path: str = "/v1/chat/completions", /, **fields: Any) -> httpx.Response:
    body = {"model": "toy", "messages": HELLO, "temperature": 1.0, "seed": 1, "max_tokens": 60} | fields
    return await http.post(path, json=body)


def num_reasoning_tokens(answer: httpx.Response) -> int:
    assert answer.status_code == 200, answer.text
    found: int = answer.json()["usage"]["completion_tokens_details"]["reasoning_tokens"]
    return found


async def test_reasoning_ends_where_its_tokens_are_spent_and_the_answer_follows(random_weights: Any) -> None:
    async with random_weights(OPENS, has_demo_tokens=True) as served, httpx.AsyncClient(base_url=served.url) as http:
        assert num_reasoning_tokens(await ask(http)) > MOST + 1, "a control"
        messages = []
        for fields in NAMES:
            answer = await ask(http, **fields)
            assert num_reasoning_tokens(answer) == MOST + 1, "with the mark"
            assert "budget" not in answer.headers.get("x-histrio-ignored", "")
            messages.append(answer.json()["choices"][0]["message"])
        assert messages == [messages[0]] * len(NAMES)
        assert messages[0]["reasoning_content"]
        assert messages[0]["content"]

        lines = (await ask(http, thinking_budget=MOST, stream=True)).text.split("\n\n")
        deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines if line.startswith("data: {")]
        for name in ("reasoning_content", "content"):
            assert "".join(each.get(name) or "" for each in deltas) == messages[0][name]

        assert num_reasoning_tokens(await ask(http, thinking_budget=MOST, n=2)) == 2 * (MOST + 1)
        formed = await ask(http, thinking_budget=MOST, response_format=FORM, max_tokens=600)
        assert num_reasoning_tokens(formed) in (MOST + 1, MOST + 2)
        assert is_valid(formed.json()["choices"][0]["message"]["content"])
        of_anthropic = {"thinking": {"type": "enabled", "budget_tokens": MOST}}
        said = (await ask(http, "/v1/messages", **of_anthropic)).json()["content"]
        assert [each["type"] for each in said] == ["thinking", "text"]
        assert said[0]["thinking"] == messages[0]["reasoning_content"]

        for fields, param in (
            ({"ignore_eos": True}, "ignore_eos"),
            ({"reasoning": {"max_tokens": 5}}, "reasoning.max_tokens"),
            ({"max_reasoning_tokens": -2}, "max_reasoning_tokens"),
            ({"reasoning_budget": MOST + 1}, "reasoning_budget"),
        ):
            refused = await ask(http, **{"thinking_budget": MOST} | fields)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
        for unbounded in (-1, 2**31 - 1):
            assert num_reasoning_tokens(await ask(http, thinking_budget=unbounded)) > MOST + 1


async def test_a_bound_is_kept_where_the_model_may_reason_and_is_a_hint_where_it_cannot(random_weights: Any) -> None:
    async with random_weights(QWEN, has_demo_tokens=True) as served, httpx.AsyncClient(base_url=served.url) as http:
        bias: dict[str, Any] = favouring({"<think>": 100})["extra_body"]
        bounded = await ask(http, thinking_budget=MOST, **bias)
        assert num_reasoning_tokens(bounded) == MOST + 2, "with both marks"
        assert num_reasoning_tokens(await ask(http, thinking_budget=MOST)) == 0, "it says what it likes"
        assert num_reasoning_tokens(await ask(http, thinking_budget=MOST, tools=[TOOL], **bias)) == MOST + 2
        forced: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required", "max_tokens": 600}
        called = (await ask(http, thinking_budget=MOST, **forced, **bias)).json()
        assert called["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "f"
        assert called["usage"]["completion_tokens_details"]["reasoning_tokens"] in (MOST + 2, MOST + 3)
        quiet = await ask(http, thinking_budget=MOST, chat_template_kwargs={"enable_thinking": False})
        assert num_reasoning_tokens(quiet) == 0
        assert "x-histrio-ignored" not in quiet.headers

    async with random_weights(PLAIN, has_demo_tokens=True) as served, httpx.AsyncClient(base_url=served.url) as http:
        for fields in NAMES:
            named = (await ask(http, **fields)).headers["x-histrio-ignored"].split(", ")
            assert [each for each in named if each != "thinking"]
            strict = await ask(http, **fields, extra=1)
            assert strict.status_code == 200
        refused = await http.post(
            "/v1/chat/completions",
            json={"model": "toy", "messages": HELLO, "thinking_budget": MOST},
            headers={"x-histrio-strict": "true"},
        )
        assert refused.json()["error"]["param"] == "max_reasoning_tokens"
