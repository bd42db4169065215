"""Tools: definitions into the prompt, calls in Hermes format out of the answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histrio_api.testing import ScriptedGateway, running_endpoint, saying, served_model, write_tokenizer
from histrio_api.text.calls.families import hermes
from histrio_api.text.calls.recognition import joined
from histrio_api.text.calls.scanner import Scanner
from histrio_api.text.tokenizer import Tokenizer

TEMPLATE = (Path(__file__).parent / "templates" / "qwen3_tools.jinja").read_text(encoding="utf-8")
TOOLS: Any = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
HELLO: Any = [{"role": "user", "content": "What is 1 + 2?"}]
CALLS = (
    'Let me see.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>\n'
    '<tool_call>\n{"name": "b"}\n</tool_call>'
)


(HERMES,) = hermes.FORMATS
CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"


def parse(pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    parser = HERMES.parser({})
    found = [*(parser.push(piece) for piece in pieces), parser.flush()]
    return "".join(each.text for each in found), joined(found)


@given(st.lists(st.integers(0, len(CALLS)), max_size=12))
def test_calls_are_found_however_the_answer_is_cut(cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), len(CALLS)]
    pieces = [CALLS[start:end] for start, end in pairwise(bounds)]
    assert parse(pieces)[1] == [("add", '{"a": 1}'), ("b", "{}")]
    assert parse(pieces)[0].strip() == "Let me see."


@pytest.mark.parametrize(
    "text",
    [
        "no calls < here",
        "<tool_call>not json</tool_call>",
        '<tool_call>{"arguments": {}}</tool_call>',
        "<tool_call>{",
        "almost <tool_cal",
    ],
)
def test_what_is_no_call_stays_text(text: str) -> None:
    assert parse(list(text)) == (text, [])


def test_a_call_without_its_closing_tag_is_still_one() -> None:
    assert parse(['<tool_call>{"name": "f", "arguments": {}}'])[1] == [("f", "{}")]


@pytest.mark.parametrize(
    "arguments",
    [
        '{"text": "</tool_call>"}',
        '{"text": "a \\" </tool_call> \\\\"}',
        '{"x": 1e999, "y": -0, "z": 10000000000000000000000}',
    ],
)
def test_arguments_are_passed_on_to_the_letter(arguments: str) -> None:
    call = f'<tool_call>\n{{"name": "f", "arguments": {arguments}}}\n</tool_call>'
    assert parse([call, " done"]) == (" done", [("f", arguments)])
    assert parse(list(call + call))[1] == [("f", arguments)] * 2


GOOD = '<tool_call>\n{"name": "g", "arguments": {"a": "</tool_call>"}}\n</tool_call>'


@pytest.mark.parametrize(
    "bad",
    [
        '<tool_call>{"name": "f" "arguments": {}}</tool_call>',
        "<tool_call>\n<function=f>\n</function></tool_call>",
        '<tool_call>"</tool_call>',
        "<tool_call>{</tool_call>",
        "<tool_call>",
    ],
)
def test_a_call_that_is_none_takes_no_later_one_with_it(bad: str) -> None:
    for pieces in ([bad, GOOD, " end"], list(bad + GOOD + " end"), [bad + GOOD + " end"]):
        assert parse(pieces) == (bad + " end", [("g", '{"a": "</tool_call>"}')])


@pytest.mark.parametrize("arguments", ['{"size": "5" inch"}}', '{"size": "5""}}', '{"s": "open}}', '{"size": "5 inch"'])
def test_arguments_that_are_no_json_are_passed_on_up_to_the_end_of_their_call(arguments: str) -> None:
    answer = f'<tool_call>{{"name": "f", "arguments": {arguments}</tool_call>{GOOD} end'
    for pieces in ([answer], list(answer)):
        assert parse(pieces) == (" end", [("f", arguments), ("g", '{"a": "</tool_call>"}')])


PARTS = [
    CALL_OPEN,
    CALL_CLOSE,
    '{"name": "f"',
    ', "arguments": ',
    '{"a": 1}',
    "}",
    "{",
    '"',
    "\\",
    "\n",
    "x",
    "1",
    "<",
    ":",
]


@given(st.lists(st.sampled_from(PARTS), max_size=14).map("".join), st.data())
def test_nothing_is_lost_however_an_answer_is_cut(answer: str, data: st.DataObject) -> None:
    text, calls = parse([answer])
    cuts = data.draw(st.lists(st.integers(0, len(answer)), max_size=4).map(sorted))
    assert parse([answer[start:end] for start, end in pairwise([0, *cuts, len(answer)])]) == (text, calls)
    assert parse(list(answer)) == (text, calls)
    if not calls:
        assert text == answer


@pytest.mark.parametrize("num_chars", [1, 11, 10**9])
@pytest.mark.parametrize(
    "answer",
    [
        CALL_OPEN + '{"' + CALL_CLOSE * 2000,
        CALL_OPEN + '{"' + CALL_OPEN * 2000,
        (CALL_OPEN + '{"a": "5" inch"}' + CALL_CLOSE) * 500,
        (CALL_OPEN + '{"a":":') * 2000,
        CALL_OPEN + '{"' + (CALL_CLOSE + CALL_OPEN + '{\\"') * 1000,
        (CALL_OPEN + '{"a": 1}' + CALL_CLOSE) * 500,
    ],
)
def test_no_answer_is_read_more_than_a_few_times(answer: str, num_chars: int, monkeypatch: pytest.MonkeyPatch) -> None:
    num_back = [0]
    go = Scanner.go

    def counting(self: Scanner, place: int) -> None:
        num_back[0] += self.place - place
        go(self, place)

    monkeypatch.setattr(Scanner, "go", counting)
    assert parse([answer[at : at + num_chars] for at in range(0, len(answer), num_chars)]) == (answer, [])
    assert num_back[0] < 4 * len(answer)


@pytest.fixture(scope="module")
def tools_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[openai.OpenAI, ScriptedGateway]]:
    folder = tmp_path_factory.mktemp("tools")
    write_tokenizer(folder, chat_template=TEMPLATE)
    ids = Tokenizer.load(folder).encode(CALLS, add_special=False)
    gateway = ScriptedGateway(served_model(folder), lambda submission, choice: saying(ids))
    with running_endpoint(gateway) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client, gateway


def test_calls_come_as_tool_calls(tools_endpoint: tuple[openai.OpenAI, ScriptedGateway]) -> None:
    client, gateway = tools_endpoint
    answer = client.chat.completions.create(model="test/scripted", messages=HELLO, tools=TOOLS)
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see."
    assert choice.message.tool_calls is not None
    calls = [call for call in choice.message.tool_calls if call.type == "function"]
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [
        ("add", {"a": 1}),
        ("b", {}),
    ]
    assert len({call.id for call in calls}) == 2
    prompt = Tokenizer.load(gateway.model.path).decode(gateway.submissions[-1].ids)
    assert '"name": "add"' in prompt


def test_streamed_calls_come_in_pieces_that_make_the_whole(
    tools_endpoint: tuple[openai.OpenAI, ScriptedGateway],
) -> None:
    client, _ = tools_endpoint
    chunks = list(client.chat.completions.create(model="test/scripted", messages=HELLO, tools=TOOLS, stream=True))
    pieces = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [(each.index, each.function.name) for each in pieces if each.function and each.function.name] == [
        (0, "add"),
        (1, "b"),
    ]
    first = [each.function.arguments or "" for each in pieces if each.index == 0 and each.function]
    assert len(first) > 3, "arguments come as they are written"
    assert "".join(first) == '{"a": 1}'
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).strip() == "Let me see."
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_the_official_client_puts_the_pieces_together(tools_endpoint: tuple[openai.OpenAI, ScriptedGateway]) -> None:
    client, _ = tools_endpoint
    with client.chat.completions.stream(model="test/scripted", messages=HELLO, tools=TOOLS) as stream:
        deltas = [event for event in stream if event.type == "tool_calls.function.arguments.delta"]
        message = stream.get_final_completion().choices[0].message
    assert [(call.function.name, call.function.arguments) for call in message.tool_calls or []] == [
        ("add", '{"a": 1}'),
        ("b", "{}"),
    ]
    assert len(deltas) > 3


def test_without_tools_the_text_is_left_alone(tools_endpoint: tuple[openai.OpenAI, ScriptedGateway]) -> None:
    client, gateway = tools_endpoint
    for fields in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        answer = client.chat.completions.create(model="test/scripted", messages=HELLO, **fields)
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (CALLS, "stop")
        prompt = Tokenizer.load(gateway.model.path).decode(gateway.submissions[-1].ids)
        assert '"name": "add"' not in prompt


def test_a_tool_round_is_accepted_as_the_client_sends_it_back(
    tools_endpoint: tuple[openai.OpenAI, ScriptedGateway],
) -> None:
    client, gateway = tools_endpoint
    answer = client.chat.completions.create(model="test/scripted", messages=HELLO, tools=TOOLS)
    message = answer.choices[0].message
    assert message.tool_calls is not None
    results = [{"role": "tool", "tool_call_id": call.id, "content": "3"} for call in message.tool_calls]
    messages: Any = [*HELLO, message.model_dump(), *results]
    client.chat.completions.create(model="test/scripted", messages=messages, tools=TOOLS)
    prompt = Tokenizer.load(gateway.model.path).decode(gateway.submissions[-1].ids)
    assert '"arguments": {"a": 1}' in prompt, "arguments are an object again"
    assert prompt.count("<tool_response>") == 2


@pytest.mark.parametrize("arguments", ['{"a": 1', '{"a": 1}{"b": 2}', "[1]", '"x"', "", "5"])
def test_arguments_that_are_no_object_are_shown_as_they_are(
    tools_endpoint: tuple[openai.OpenAI, ScriptedGateway], arguments: str
) -> None:
    client, gateway = tools_endpoint
    call: Any = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    history: Any = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}]
    client.chat.completions.create(model="test/scripted", messages=history)
    prompt = Tokenizer.load(gateway.model.path).decode(gateway.submissions[-1].ids)
    assert f'"name": "f", "arguments": {arguments or "{}"}}}' in prompt


def test_what_a_stream_and_the_official_client_add_is_accepted_in_the_history(
    tools_endpoint: tuple[openai.OpenAI, ScriptedGateway],
) -> None:
    client, gateway = tools_endpoint
    with client.chat.completions.stream(model="test/scripted", messages=HELLO, tools=TOOLS) as stream:
        answered = stream.get_final_completion().choices[0].message
    deltas = [call.model_dump() | {"index": at} for at, call in enumerate(answered.tool_calls or [])]
    assert len(deltas) == 2
    for delta in deltas:
        delta["function"]["parsed_arguments"] = {"a": 1}
    message: Any = {"role": "assistant", "content": None, "parsed": None, "function_call": None, "audio": None}
    message |= {"refusal": None, "annotations": [], "tool_calls": deltas}
    client.chat.completions.create(model="test/scripted", messages=[*HELLO, message], tools=TOOLS)
    prompt = Tokenizer.load(gateway.model.path).decode(gateway.submissions[-1].ids)
    assert '"arguments": {"a": 1}' in prompt
    assert "parsed" not in prompt
    strict = {"x-histrio-strict": "true"}
    with pytest.raises(openai.BadRequestError, match=r"tool_calls\[0\]\.\S+: has no effect here"):
        client.chat.completions.create(
            model="test/scripted", messages=[*HELLO, message], tools=TOOLS, extra_headers=strict
        )


def test_template_variables_reach_the_template(tools_endpoint: tuple[openai.OpenAI, ScriptedGateway]) -> None:
    client, gateway = tools_endpoint
    extra = {"chat_template_kwargs": {"enable_thinking": False}}
    client.chat.completions.create(model="test/scripted", messages=HELLO, extra_body=extra)
    prompt = Tokenizer.load(gateway.model.path).decode(gateway.submissions[-1].ids)
    assert prompt.endswith("<think>\n\n</think>\n\n")
