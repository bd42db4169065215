"""Custom tools of OpenAI: offered as a function of one text, answered with it; the official client judges."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest
from openai.types.chat import ChatCompletionMessageCustomToolCall, ChatCompletionMessageFunctionToolCall

from histrio.contracts.honours import Honours
from histrio_api.testing import ScriptedGateway, running_endpoint, saying, served_model, write_tokenizer
from histrio_api.text.call_arguments import as_input
from histrio_api.text.tokenizer import Tokenizer

TEMPLATE = (Path(__file__).parent / "templates" / "qwen3_tools.jinja").read_text(encoding="utf-8")
HELLO: Any = [{"role": "user", "content": "What is 1 + 2?"}]
SUM = r"[0-9]{1,3}( \+ [0-9]{1,3}){1,2}"
ADD: Any = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
NO_REASONING = {"chat_template_kwargs": {"enable_thinking": False}}
INPUT = 'print("hällo\\n")\n'


def custom(name: str = "run", **more: Any) -> Any:
    return {"type": "custom", "custom": {"name": name, "description": "Runs code."} | more}


def regex(definition: str) -> Any:
    return {"type": "grammar", "grammar": {"syntax": "regex", "definition": definition}}


def written(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


class Served:
    """The official client of an endpoint over a script, with Qwen3's template."""

    def __init__(self, client: openai.OpenAI, gateway: ScriptedGateway, tokenizer: Tokenizer) -> None:
        self.client, self.gateway, self.tokenizer = client, gateway, tokenizer

    def says(self, text: str) -> None:
        ids = self.tokenizer.encode(text, add_special=False)
        self.gateway.script = lambda submission, choice: saying(ids)

    def create(self, **fields: Any) -> Any:
        given: dict[str, Any] = {"model": "test/scripted", "messages": HELLO, "tools": [custom(), ADD]} | fields
        return self.client.chat.completions.create(**given)

    @property
    def prompt(self) -> str:
        return self.tokenizer.decode(self.gateway.submissions[-1].ids, skip_special=False)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("custom")
    write_tokenizer(folder, chat_template=TEMPLATE)
    model = msgspec.structs.replace(served_model(folder), honours=Honours(grammar_kinds=[]))
    gateway = ScriptedGateway(model, lambda submission, choice: saying([5]))
    with running_endpoint(gateway) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield Served(client, gateway, Tokenizer.load(folder))


def test_a_custom_tool_is_called_with_its_text(served: Served) -> None:
    calls = [written("run", json.dumps({"input": INPUT})), written("add", '{"a": 1}'), written("run", '{"input": ""}')]
    served.says("I look.\n" + "\n".join(calls))
    choice = served.create().choices[0]
    first, second, third = choice.message.tool_calls
    assert isinstance(first, ChatCompletionMessageCustomToolCall)
    assert isinstance(second, ChatCompletionMessageFunctionToolCall), "control"
    assert (first.custom.name, first.custom.input, third.custom.input) == ("run", INPUT, "")
    assert (second.function.name, second.function.arguments) == ("add", '{"a": 1}')
    assert choice.finish_reason == "tool_calls"

    found: dict[int, dict[str, str]] = {}
    for chunk in served.create(stream=True):
        for delta in chunk.choices[0].delta.tool_calls or ():
            piece = delta.to_dict()
            (kind,) = {"function", "custom"} & piece.keys()
            assert piece.get("type", kind) == kind
            call = found.setdefault(delta.index, {})
            for name, text in ({"id": piece.get("id", "")} | piece[kind]).items():
                call[name] = call.get(name, "") + text
    fields = [sorted(each.keys() - {"id", "name"}) for each in found.values()]
    assert fields == [["input"], ["arguments"], ["input"]]
    assert all(each["id"] for each in found.values())
    assert [each.get("input", each.get("arguments")) for each in found.values()] == [INPUT, '{"a": 1}', ""]


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ('{"input": "a\\nb"}', "a\nb"),
        ('{"input": "a\\n', "a\n"),
        ('{"input": "a\\u00', "a"),
        ('{"input": "a\\ud83d', "a"),
        ('{"input": "a\\ud83d\\ude00', "a😀"),
        ('{"input": 5}', '{"input": 5}'),
        ('{"other": "a"}', '{"other": "a"}'),
        ('{"inp', '{"inp'),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_the_input_is_read_also_where_it_was_cut_off(arguments: str, given: str) -> None:
    assert as_input(arguments) == given


def test_an_answer_with_custom_calls_is_taken_back(served: Served) -> None:
    served.says(written("run", json.dumps({"input": INPUT})))
    message = served.create().choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "hällo"}
    served.create(messages=[*HELLO, message, result])
    prompt = served.prompt
    call = {"id": "c", "type": "function", "function": {"name": "run", "arguments": json.dumps({"input": INPUT})}}
    served.create(messages=[*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}, result])
    assert served.prompt == prompt, "as a call of the function as which it is offered"
    assert '"name": "run"' in prompt.partition("</tools>")[0], "and offered it is"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "custom"}]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [ADD | {"custom": {"name": "f"}}]}, "tools[0]"),
        ({"tools": [custom(format={"type": "grammar"})]}, "tools[0].custom.format"),
        ({"tools": [custom(format=regex(SUM) | {"type": "text"})]}, "tools[0].custom.format"),
        (
            {"tools": [custom(format={"type": "grammar", "grammar": {"syntax": "lark", "definition": 'start: "a"'}})]},
            "tools[0].custom.format.grammar",
        ),
        ({"tools": [ADD, custom(format=regex(SUM))]}, "tools[1].custom.format"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "other"}}}, "tool_choice.custom.name"),
        ({"tool_choice": {"type": "custom"}}, "tool_choice.custom"),
        (
            {"messages": [*HELLO, {"role": "assistant", "tool_calls": [{"type": "custom"}]}]},
            "messages[1].tool_calls[0]",
        ),
    ],
)
def test_what_is_no_custom_tool_or_cannot_be_enforced_is_refused(
    served: Served, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        served.create(**fields)
    assert caught.value.param == param


@pytest.mark.anyio
@pytest.mark.slow_start
@pytest.mark.timeout(90)  # starts a replica, and a process that checks grammars
async def test_random_weights_follow_the_grammar_of_a_custom_tool(random_weights: Any) -> None:
    chosen = {"type": "custom", "custom": {"name": "run"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [chosen]}}
    async with random_weights(TEMPLATE) as served:
        tools = [custom(format=regex(SUM)), ADD]
        for choice in (chosen, allowed):
            answer = await served.create(
                tools=tools, tool_choice=choice, max_tokens=500, parallel_tool_calls=False, extra_body=NO_REASONING
            )
            (call,) = answer.choices[0].message.tool_calls
            assert isinstance(call, ChatCompletionMessageCustomToolCall)
            assert re.fullmatch(SUM, call.custom.input), call

        with pytest.raises(openai.BadRequestError) as caught:
            await served.create(tools=[custom(format=regex("(?=a)b"))], tool_choice="required")
        assert caught.value.param == "tools[0].custom.format.grammar.definition"
