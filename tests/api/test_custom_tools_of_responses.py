"""Custom tools of /v1/responses, held by the official client: offered, called, streamed, taken back and enforced."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import openai
import pytest

from histrio_api.schemas.custom_tools import CustomGrammar
from tests.api.test_custom_tools import INPUT, NO_REASONING, SUM, TEMPLATE, Served, served, written
from tests.api.test_responses import events_of

__all__ = ["served"]

RUN: dict[str, Any] = {"type": "custom", "name": "run", "description": "Runs code."}
ADD: dict[str, Any] = {"type": "function", "name": "add", "parameters": {"type": "object"}}
SAID = f"I look.\n{written('run', json.dumps({'input': INPUT}))}\n{written('add', '{}')}\n{written('run', '{}')}"


def ask(served: Served, **fields: Any) -> Any:
    given: dict[str, Any] = {"model": "test/scripted", "input": "What is 1 + 2?", "tools": [RUN, ADD]} | fields
    return served.client.responses.create(**given)


def test_a_custom_tool_is_called_with_its_text_whole_and_streamed_alike(served: Served) -> None:
    served.says(SAID)
    whole = ask(served)
    message, first, second, third = whole.output
    assert [each.type for each in whole.output] == ["message", "custom_tool_call", "function_call", "custom_tool_call"]
    assert (first.name, first.input, third.input) == ("run", INPUT, "{}")
    assert (second.name, second.arguments) == ("add", "{}"), "control"
    assert len({each.call_id for each in (first, second, third)}) == 3

    events: list[Any] = list(ask(served, stream=True))
    grown: dict[str, str] = {}
    for event in events:
        if event.type == "response.custom_tool_call_input.delta":
            grown[event.item_id] = grown.get(event.item_id, "") + event.delta
    streamed = events[-1].response.output
    assert [(each.type, getattr(each, "input", "")) for each in streamed] == [
        (each.type, getattr(each, "input", "")) for each in whole.output
    ]
    assert grown == {each.id: each.input for each in streamed if each.type == "custom_tool_call"}
    done = {each.item_id: each.input for each in events if each.type == "response.custom_tool_call_input.done"}
    assert done == grown
    assert message.content[0].text == "I look.\n"


def test_calls_and_their_results_are_taken_back_sent_or_kept(served: Served) -> None:
    served.says(written("run", json.dumps({"input": INPUT})))
    answer = ask(served)
    (call,) = answer.output
    result = {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "hällo"}
    ask(served, input=[{"role": "user", "content": "What is 1 + 2?"}, call, result])
    prompt = served.prompt
    assert json.dumps(INPUT, ensure_ascii=False) in prompt
    assert "hällo" in prompt.rpartition("<tool_response>")[2]
    ask(served, input=[result], previous_response_id=answer.id)
    assert served.prompt == prompt
    ask(served, input=[{"type": "item_reference", "id": call.id}, result])
    assert json.dumps(INPUT, ensure_ascii=False) in served.prompt


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "custom"}]}, "tools[0].name"),
        ({"tools": [RUN | {"format": {"type": "grammar", "syntax": "regex"}}]}, "tools[0].format"),
        ({"tools": [RUN | {"format": {"type": "text", "syntax": "regex", "definition": "a"}}]}, "tools[0].format"),
        (
            {"tools": [RUN | {"format": {"type": "grammar", "syntax": "lark", "definition": 'start: "a"'}}]},
            "tools[0].format",
        ),
        (
            {"tools": [ADD, RUN | {"format": {"type": "grammar", "syntax": "regex", "definition": SUM}}]},
            "tools[1].format",
        ),
        ({"tool_choice": {"type": "custom", "name": "other"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "custom"}}, "tool_choice.name"),
        (
            {"tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "run"}]}},
            "tool_choice.tools[0]",
        ),
        ({"input": [{"type": "custom_tool_call", "call_id": "c", "name": "run"}]}, "input[0].input"),
    ],
)
def test_what_is_no_custom_tool_or_cannot_be_enforced_is_refused(
    served: Served, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(served, **fields)
    assert caught.value.param == param
    assert ".custom." not in str(caught.value)


@pytest.mark.parametrize("expression", ["a)(?:b", "a)|(b", "(a", "a))", "[(]a)"])
def test_an_expression_that_only_another_pair_of_parentheses_makes_whole_is_none(expression: str) -> None:
    with pytest.raises(ValueError, match="parenthesis"):
        CustomGrammar(definition=expression, syntax="regex")


@pytest.mark.parametrize("expression", ["(a)(?:b)", r"\(a", r"[)\]()]*", "[](]+", "[^])]x", "a|b", r"\\(a)"])
def test_parentheses_that_are_pairs_or_mean_themselves_are_fine(expression: str) -> None:
    assert CustomGrammar(definition=expression, syntax="regex").definition == expression


@pytest.mark.anyio
@pytest.mark.slow_start
@pytest.mark.timeout(90)  # starts a replica, and a process that checks grammars
async def test_random_weights_follow_the_grammar_of_a_custom_tool_of_responses(random_weights: Any) -> None:
    tools = [RUN | {"format": {"type": "grammar", "syntax": "regex", "definition": SUM}}, ADD]
    given: dict[str, Any] = {"model": "toy", "input": "Hello", "tools": tools, "max_output_tokens": 500}
    given |= {"tool_choice": {"type": "custom", "name": "run"}, "extra_body": NO_REASONING}
    async with random_weights(TEMPLATE) as served:
        (call,) = (await served.client.responses.create(**given)).output
        assert re.fullmatch(SUM, call.input)
        events = [each async for each in await served.client.responses.create(stream=True, **given)]
        (streamed,) = events[-1].response.output
        assert re.fullmatch(SUM, streamed.input)


def test_events_of_a_custom_call_are_numbered_and_typed(served: Served) -> None:
    served.says(written("run", '{"input": "x"}'))
    body = {"model": "test/scripted", "input": "Hello", "tools": [RUN], "stream": True}
    answer = httpx.post(f"{served.client.base_url}responses", json=body)
    kinds = [each["type"].removeprefix("response.") for each in events_of(answer.text)]
    assert kinds == [
        "created",
        "in_progress",
        "output_item.added",
        "custom_tool_call_input.delta",
        "custom_tool_call_input.done",
        "output_item.done",
        "completed",
    ]
