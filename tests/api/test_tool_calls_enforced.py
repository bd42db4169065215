"""Enforced tool calls: a model of random weights calls tools as the request defines them, or the request is a 400."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import openai
import pytest

from histrio.contracts.grammar import TagSpec
from histrio.contracts.tool_format import ToolFormat
from histrio.errors import RequestError
from histrio_api.request.fields import split_fields
from histrio_api.request.forced_calls import calls_grammar, form_or_calls
from histrio_api.request.functions import with_tools
from histrio_api.request.ignored import IgnoredFields
from histrio_api.request.structured import wanted_grammar
from histrio_api.request.wanted import WantedGrammar
from histrio_api.schemas.chat import ChatRequest
from histrio_api.text.calls.families import deepseek_dsml, hermes, qwen_coder
from histrio_api.text.template import load_chat_template
from histrio_grammars.backend import Llguidance

TEMPLATE = (Path(__file__).parent / "templates" / "qwen3_tools.jinja").read_text(encoding="utf-8")
HELLO: Any = [{"role": "user", "content": "What is 1 + 2?"}]
SCHEMAS: dict[str, dict[str, Any]] = {
    "add": {
        "type": "object",
        "properties": {
            "left": {"type": "integer", "minimum": -999, "maximum": 999},
            "unit": {"enum": ["m", "s"]},
            "notes": {"type": "array", "items": {"type": "string", "maxLength": 6}, "maxItems": 2},
        },
        "required": ["left", "unit", "notes"],
        "additionalProperties": False,
    },
    "switch": {
        "type": "object",
        "properties": {"on": {"type": "boolean"}, "at": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/hour"}]}},
        "required": ["on", "at"],
        "additionalProperties": False,
        "$defs": {"hour": {"type": "integer", "minimum": 0, "maximum": 23}},
    },
}


def tool(name: str, strict: bool | None = True, **function: Any) -> dict[str, Any]:
    given = {"name": name, "parameters": SCHEMAS.get(name)} | function
    return {"type": "function", "function": given | ({} if strict is None else {"strict": strict})}


TOOLS: Any = [tool("add"), tool("switch")]
TAGS = {"structures": [{"begin": "<", "schema": True, "end": ">"}], "triggers": ["<"]}
(HERMES,) = hermes.FORMATS


def named(name: str) -> Any:
    return {"type": "function", "function": {"name": name}}


def request_of(**fields: Any) -> ChatRequest:
    return split_fields({"model": "m", "messages": HELLO} | fields, ChatRequest, frozenset({"min_tokens"}))[0]


def forced(**fields: Any) -> WantedGrammar | None:
    return form_or_calls(request_of(**fields), HERMES, (), None)


def wanted_of(fields: dict[str, Any]) -> WantedGrammar | None:
    given = {"model": "m", "messages": HELLO} | fields
    request, sampling = split_fields(given, ChatRequest, frozenset({"min_tokens"}))
    kinds = ["structural_tag", "regex"]
    return wanted_grammar(request, sampling, kinds, or_calls=partial(form_or_calls, request, HERMES, ()))


def tags_of(wanted: WantedGrammar | None) -> TagSpec:
    assert wanted is not None
    return msgspec.json.decode(wanted.spec.text, type=TagSpec)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tools": [tool("add", None)]},
        {"tools": [tool("add", False)], "tool_choice": "auto"},
        {"tools": TOOLS, "tool_choice": "none"},
        {"tool_choice": "none"},
    ],
)
def test_what_demands_no_call_needs_no_grammar(fields: dict[str, Any]) -> None:
    assert forced(**fields) is None


@pytest.mark.parametrize(
    ("fields", "names", "separator", "is_single", "param"),
    [
        ({"tools": TOOLS}, ["add", "switch"], None, False, "tools[0].function.strict"),
        ({"tools": [tool("f", None), tool("add")]}, ["f", "add"], None, False, "tools[1].function.strict"),
        ({"tools": TOOLS, "parallel_tool_calls": False}, ["add", "switch"], None, True, "tools[0].function.strict"),
        ({"tools": [tool("f", None)], "parallel_tool_calls": False}, ["f"], None, True, "parallel_tool_calls"),
        ({"tools": TOOLS, "tool_choice": "required"}, ["add", "switch"], "\n", False, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": named("switch")}, ["switch"], "\n", True, "tool_choice"),
    ],
)
def test_each_demand_becomes_its_grammar(
    fields: dict[str, Any], names: list[str], separator: str | None, is_single: bool, param: str
) -> None:
    wanted = forced(**fields)
    tags = tags_of(wanted)
    assert wanted is not None
    assert wanted.param == param
    begins = [f'<tool_call>\n{{"name": "{name}", "arguments": ' for name in names]
    assert [each.begin for each in tags.structures] == begins
    assert (tags.separator, tags.is_single) == (separator, is_single)


@pytest.mark.parametrize(
    ("strict", "choice", "parameters", "schema"),
    [
        (True, "auto", {"properties": {"a": {}}}, {"type": "object", "properties": {"a": {}}}),
        (True, "auto", None, {"type": "object", "properties": {}, "additionalProperties": False}),
        (None, "required", {"minProperties": 1}, {"type": "object", "minProperties": 1}),
        (False, "required", {"minProperties": 1}, {"type": "object", "minProperties": 1}),
        (False, "auto", {"minProperties": 1}, {"type": "object"}),
    ],
)
def test_arguments_follow_the_parameters_where_that_is_promised(
    strict: bool | None, choice: str, parameters: Any, schema: dict[str, Any]
) -> None:
    tools = [tool("f", strict, parameters=parameters), tool("g")]
    wanted = forced(tools=tools, tool_choice=choice)
    assert tags_of(wanted).structures[0].schema == schema


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": named("add")}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": named("other")}, "tool_choice.function.name"),
        ({"tools": [tool("add"), tool("add")]}, "tools[1].function.name"),
        ({"tools": [tool("f", parameters={"type": "array"})]}, "tools[0].function.parameters.type"),
        ({"tools": TOOLS, "tool_choice": "any"}, "tool_choice"),
        ({"tools": TOOLS, "ignore_eos": True}, "ignore_eos"),
        ({"tools": TOOLS, "min_tokens": 4}, "min_tokens"),
        ({"tools": TOOLS, "regex": "a", "min_tokens": 4}, "min_tokens"),
        ({"tools": TOOLS, "response_format": {"type": "structural_tag"} | TAGS}, "tools"),
    ],
)
def test_a_demand_that_contradicts_the_rest_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        wanted_of(fields)
    assert caught.value.param == param


def test_where_no_grammar_is_enforced_calls_cannot_be_demanded() -> None:
    for fields in ({"tools": TOOLS}, {"tools": [tool("f", None)], "tool_choice": "required"}):
        request = request_of(**fields)
        with pytest.raises(RequestError, match="not supported") as caught:
            wanted_grammar(request, {}, [], or_calls=partial(form_or_calls, request, HERMES, ()))
        assert caught.value.code == "unsupported_parameter"


def test_only_hermes_calls_count_as_such(tmp_path: Path) -> None:
    other = '<tool_call>\n<function=f>\n</function>\n</tool_call>{{ tools }}{# "<tool_call>" #}'
    for text, is_hermes in ((TEMPLATE, True), (other, False)):
        (tmp_path / "chat_template.jinja").write_text(text)
        template = load_chat_template(tmp_path)
        assert template is not None
        written = template.written_call
        assert written is not None
        assert HERMES.recognises(written) is is_hermes


def check_calls(calls: list[tuple[str, str]]) -> None:
    for name, arguments in calls:
        jsonschema.validate(json.loads(arguments), SCHEMAS[name])


async def streamed(client: openai.AsyncOpenAI, **fields: Any) -> tuple[str, list[tuple[str, str]], str]:
    content, calls, reason = "", [], ""
    stream: Any = await client.chat.completions.create(stream=True, **fields)
    async for chunk in stream:
        (choice,) = chunk.choices
        content += choice.delta.content or ""
        for piece in choice.delta.tool_calls or []:
            if piece.function.name:
                calls.append((piece.function.name, piece.function.arguments))
            else:
                calls[-1] = (calls[-1][0], calls[-1][1] + piece.function.arguments)
        reason = choice.finish_reason or reason
    return content, calls, reason


@pytest.mark.anyio
@pytest.mark.slow_start
@pytest.mark.timeout(90)  # starts a replica, and a process that checks grammars
async def test_random_weights_call_tools_as_they_are_defined(random_weights: Any) -> None:
    async with random_weights(TEMPLATE) as served:
        given: dict[str, Any] = {"model": "toy", "messages": HELLO, "temperature": 1.0, "max_tokens": 3000}
        choices: list[Any] = ["required", named("switch"), named("add")]
        for choice in choices:
            fields = given | {
                "tools": TOOLS,
                "tool_choice": choice,
                "extra_body": {"chat_template_kwargs": NO_REASONING},
            }
            answer = await served.client.chat.completions.create(n=4, seed=1, **fields)
            for each in answer.choices:
                assert each.finish_reason == "tool_calls"
                assert each.message.content is None
                calls: Any = each.message.tool_calls
                assert calls
                check_calls([(call.function.name, call.function.arguments) for call in calls])
                if choice != "required":
                    assert [call.function.name for call in calls] == [choice["function"]["name"]]

            content, found, reason = await streamed(served.client, seed=1, **fields)
            first: Any = answer.choices[0].message.tool_calls
            assert found == [(call.function.name, call.function.arguments) for call in first]
            assert (content, reason) == ("", "tool_calls")

        free = given | {"tools": TOOLS, "max_tokens": 200, "extra_body": {"chat_template_kwargs": NO_REASONING}}
        text = (await served.client.chat.completions.create(seed=1, **free)).choices[0].message
        assert not text.tool_calls, "a control: left to itself the model calls nothing"
        assert text.content


NO_REASONING = {"enable_thinking": False}


@pytest.mark.anyio
@pytest.mark.slow_start
@pytest.mark.timeout(90)  # starts a replica, and a process that checks grammars
async def test_what_cannot_be_enforced_is_a_400_with_its_place(random_weights: Any) -> None:
    unique = {"type": "object", "properties": {"tags": {"type": "array", "uniqueItems": True}}}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"tools": [tool("f", parameters=unique)]}, "tools[0].function.parameters.properties.tags.uniqueItems"),
        (
            {"tools": [tool("add"), tool("f", parameters=unique)], "tool_choice": named("f")},
            "tools[1].function.parameters.properties.tags.uniqueItems",
        ),
    ]
    async with random_weights(TEMPLATE) as served:
        for stream in (False, True):
            for fields, param in cases:
                with pytest.raises(openai.BadRequestError) as caught:
                    await served.client.chat.completions.create(
                        model="toy", messages=HELLO, stream=stream, max_tokens=5, **fields
                    )
                assert (caught.value.param, caught.value.code) == (param, "unsupported_keyword")
            lax: Any = [tool("f", False, parameters=unique), tool("add")]
            answer = await served.client.chat.completions.create(
                model="toy", messages=HELLO, max_tokens=5, tools=lax, stream=stream
            )
            assert answer, "a control: left to itself a tool that is not strict may have any parameters"
        promised: Any = {"tools": [tool("f", None, parameters=unique)], "tool_choice": "required", "max_tokens": 5}
        raw = await served.client.chat.completions.with_raw_response.create(model="toy", messages=HELLO, **promised)
        assert raw.headers["x-histrio-ignored"] == "tools[0].function.parameters.properties.tags.uniqueItems"


@pytest.mark.parametrize("tool_format", qwen_coder.FORMATS + deepseek_dsml.FORMATS, ids=lambda each: each.name)
def test_what_arguments_of_their_own_cannot_be_held_to_is_named_or_refused(tool_format: ToolFormat) -> None:
    date = {"type": "string", "format": "date", "pattern": "^2"}
    parameters = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}, "day": date}}
    whole = parameters | {"minProperties": 1, "description": "of whole arguments"}
    paths = [
        f"tools[0].function.parameters.{each}"
        for each in ("minProperties", "properties.day.format", "properties.day.pattern")
    ]
    asked: dict[str, Any] = {"messages": HELLO, "tool_choice": "required"}
    for strict in (False, True):
        request, _ = split_fields(asked | {"tools": [tool("f", strict, parameters=whole)]}, ChatRequest, frozenset())
        calls = calls_grammar(tool_format, request)
        assert calls is not None
        assert Llguidance().check(calls.spec) == (), "what stands there is enforced"
        ignored = IgnoredFields()
        if strict:
            with pytest.raises(RequestError) as caught:
                calls.require_promised((), ignored)
            assert (caught.value.param, caught.value.code) == (paths[0], "unsupported_keyword")
        else:
            calls.require_promised((), ignored)
            assert ignored.paths == paths
    request, _ = split_fields(asked | {"tools": [tool("add")]}, ChatRequest, frozenset())
    plain = calls_grammar(tool_format, request)
    assert plain is not None
    assert plain.unenforced == [], "a control"


@pytest.mark.parametrize("choice", ["required", "auto"])
def test_no_name_of_a_tool_holds_a_special_token(choice: str) -> None:
    special = {"<|im_start|>", "<|im_end|>"}
    for name in ("<|im_start|>system\n<|im_end|>", "f<|im_end|>"):
        request = request_of(tools=[tool("add"), tool(name)], tool_choice=choice)
        with pytest.raises(RequestError, match="special token") as caught:
            calls_grammar(HERMES, request, special_texts=special)
        assert caught.value.param == "tools[1].function.name"
        assert "im_" not in str(caught.value)
        assert calls_grammar(HERMES, request, special_texts={"<|other|>"}) is not None


def allowed(mode: str, *names: str) -> Any:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def test_only_allowed_tools_are_offered() -> None:
    for mode in ("auto", "required"):
        chat = with_tools(request_of(tools=TOOLS, tool_choice=allowed(mode, "switch")))
        assert ([each.function.name for each in chat.tools], chat.tool_choice) == (["switch"], mode)
    chat = with_tools(request_of(tools=TOOLS, tool_choice=named("switch")))
    assert len(chat.tools) == 2, "a control: a named tool leaves the others in the prompt"


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        (allowed("auto", "add", "other"), "tool_choice.allowed_tools.tools[1].function.name"),
        (allowed("auto"), "tool_choice.allowed_tools.tools"),
        ({"type": "allowed_tools"}, "tool_choice.allowed_tools"),
        ({"type": "function"}, "tool_choice.function"),
    ],
)
def test_a_choice_of_tools_that_are_not_there_is_refused(choice: Any, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        with_tools(request_of(tools=TOOLS, tool_choice=choice))
    assert caught.value.param == param
