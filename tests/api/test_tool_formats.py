"""Every tool format finds what its examples say, however an answer is cut, and recognises itself in chat templates."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histrio.contracts.tool_format import CallPiece, Found, ToolFormat, WrittenCall
from histrio.messages import ReasoningMarks
from histrio.testing.tool_formats import SCHEMAS, read_answer, tool_format_faults
from histrio_api.text.answers import AnswerParser, AnswerParts, called_tools
from histrio_api.text.calls.families.known import FORMATS
from histrio_api.text.reasoning_formats import FORMATS as REASONING_FORMATS

BY_NAME = {each.name: each for each in FORMATS}
(THINK,) = [each for each in REASONING_FORMATS if each.name == "think"]
each_format = pytest.mark.parametrize("tool_format", FORMATS, ids=list(BY_NAME))


@each_format
def test_a_format_keeps_its_contract(tool_format: ToolFormat) -> None:
    assert tool_format_faults(tool_format) == []


class Forgetful:
    """Hermes, but it sees only the calls that come in one piece."""

    def __init__(self) -> None:
        self._inner = BY_NAME["hermes"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def parser(self, schemas: Any) -> Any:
        inner = self._inner

        class Parser:
            def push(self, text: str) -> Found:
                parser = inner.parser(schemas)
                first, last = parser.push(text), parser.flush()
                return Found(first.parts + last.parts)

            def flush(self) -> Found:
                return Found([])

        return Parser()


def test_the_kit_finds_a_format_that_depends_on_the_cut() -> None:
    faults = tool_format_faults(Forgetful())
    assert any("character by character" in fault for fault in faults)
    assert any("cut at" in fault for fault in faults)


@each_format
@settings(max_examples=25)
@given(data=st.data())
def test_what_is_read_does_not_depend_on_the_cut(tool_format: ToolFormat, data: st.DataObject) -> None:
    """Of answers that no model should write: parts of calls in any order."""
    examples = [example.answer for example in tool_format.examples]
    parts = [*tool_format.marks, *examples, "add", "say", "(", "{", "}", "[", "]", '"', "\\", ":", ",", "=", "\n", " x"]
    halves = [answer[: len(answer) // 2] for answer in examples]
    answer = data.draw(st.lists(st.sampled_from([*parts, *halves]), max_size=6).map("".join))
    whole = read_answer(tool_format, [answer])
    cuts = data.draw(st.lists(st.integers(0, len(answer)), max_size=4).map(sorted))
    assert read_answer(tool_format, answer) == whole
    assert read_answer(tool_format, [answer[a:b] for a, b in pairwise([0, *cuts, len(answer)])]) == whole
    if not whole[1]:
        assert whole[0] == answer, "nothing is lost"


@each_format
def test_reasoning_before_the_calls_is_no_part_of_them(tool_format: ToolFormat) -> None:
    marks = THINK.marks or ReasoningMarks()
    for example in tool_format.examples:
        if example.about not in ("one call", "parallel calls"):
            continue
        answer = f"{marks.open}\nI could say: {example.answer}\n{marks.close}\n\n{example.answer}"
        parts = AnswerParts("maybe", THINK, tool_format, SCHEMAS)
        for pieces in ([answer], list(answer)):
            parser = AnswerParser(parts)
            found = [parser.push(each, is_last=False) for each in pieces] + [parser.push("", is_last=True)]
            assert "".join(each.reasoning for each in found) == f"I could say: {example.answer}"
            assert "".join(each.text for each in found) == example.text
            calls = called_tools(piece for each in found for piece in each.calls)
            assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [
                (name, json.loads(arguments)) for name, arguments in example.calls
            ]
            assert len({call.id for call in calls}) == len(calls) == parser.num_calls


@each_format
def test_a_call_comes_in_pieces_as_it_is_written(tool_format: ToolFormat) -> None:
    (answer, *_) = [each.answer for each in tool_format.examples if each.about == "unicode and quotes"]
    parser = tool_format.parser(SCHEMAS)
    pieces: list[CallPiece] = []
    for char in answer[:-4]:
        pieces += parser.push(char).calls
    assert pieces[0] == CallPiece("say", id=pieces[0].id), "the name comes first"
    assert len(pieces) > 2, "and the arguments before the answer has ended"


WRITTEN = {
    "hermes": '<|im_start|>assistant\n<tool_call>\n{"name": "f", "arguments": {"k": "v"}}\n</tool_call><|im_end|>',
    "qwen-coder": "<tool_call>\n<function=f>\n<parameter=k>\nv\n</parameter>\n</function>\n</tool_call><|im_end|>",
    "glm": "<|assistant|>\n<tool_call>f\n<arg_key>k</arg_key>\n<arg_value>v</arg_value>\n</tool_call><|observation|>",
    "minimax": ']~b]ai\n<minimax:tool_call>\n<invoke name="f">\n<parameter name="k">v</parameter>\n</invoke>\n'
    "</minimax:tool_call>[e~[",
    "kimi": "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>"
    '{"k": "v"}<|tool_call_end|><|tool_calls_section_end|><|im_end|>',
    "deepseek-v3": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n"
    '{"k": "v"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    "deepseek-v3.1": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>"
    '{"k": "v"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    "mistral-list": '[TOOL_CALLS][{"name": "f", "arguments": {"k": "v"}, "id": "abcdefghi"}]</s>[TOOL_RESULTS]',
    "mistral": '[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{"k": "v"}</s>',
    "llama-json": '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "f", "parameters": {"k": "v"}}<|eot_id|>',
    "pythonic": "<|header_start|>assistant<|header_end|>\n\n[f(k='v')]<|eot|>",
    "phi": '<|assistant|><|tool_call|>[{"name": "f", "arguments": {"k": "v"}}]<|/tool_call|><|end|>',
    "granite": '<|start_of_role|>assistant<|end_of_role|><|tool_call|>[{"name": "f", "arguments": {"k": "v"}}]',
    "gemma": '<|turn>model\n<|tool_call>call:f{k:<|"|>v<|"|>}<tool_call|><turn|>',
    "function-gemma": "<start_function_call>call:f{k:<escape>v<escape>}<end_function_call>",
    "tool-code": '```tool_code\nf(k="v")\n```<end_of_turn>',
    "seed": "<seed:bos>assistant\n<seed:tool_call>\n<function=f>\n<parameter=k>v</parameter>\n</function>\n"
    "</seed:tool_call><seed:eos>",
    "hunyuan": "<think:opensource></think:opensource><tool_calls:opensource>\n<tool_call:opensource>f"
    "<tool_sep:opensource>\n<arg_key:opensource>k</arg_key:opensource>\n<arg_value:opensource>v"
    "</arg_value:opensource>\n</tool_call:opensource>\n</tool_calls:opensource>",
    "deepseek-v3.2": '</think>\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="k" '
    'string="true">v</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',
    "deepseek-v4": '</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="k" '
    'string="true">v</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>',
    "kimi-k3": '<|close|>response<|sep|><|open|>tools<|sep|><|open|>call tool="f" index="1"<|sep|><|open|>argument '
    'key="k" type="string"<|sep|>v<|close|>argument<|sep|><|close|>call<|sep|><|close|>tools<|sep|>',
    "nemotron": '<SPECIAL_11>Assistant\n<TOOLCALL>[{"name": "f", "arguments": {"k": "v"}}]</TOOLCALL>\n<SPECIAL_12>',
    "apriel": '<|assistant|>\n\n<tool_calls>[{"name": "f", "arguments": {"k": "v"}, "id": "x1"}]</tool_calls>\n<|end|>',
    "minimax-m1": 'ai name=assistant\n<tool_calls>\n{"name": "f", "arguments": {"k": "v"}}\n</tool_calls>',
    "command": '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "f", "parameters": {"k": "v"}}\n]'
    "<|END_ACTION|>",
    "apertus": '<|assistant_start|><|tools_prefix|>[{"f": {"k": "v"}}]<|tools_suffix|>[a result]',
    "functionary": '<|end_header_id|>\n\n<function=f>{"k": "v"}</function><|eom_id|>',
    "functionary-v3.2": '<|end_header_id|>\n\n>>>f\n{"k": "v"}<|eot_id|>',
    "minimax-m3": ']~b]ai\n</mm:think>]<]minimax[>[<tool_call>\n]<]minimax[>[<invoke name="f">]<]minimax[>[<k>v'
    "]<]minimax[>[</k>]<]minimax[>[</invoke>\n]<]minimax[>[</tool_call>[e~[",
    "lfm": "<|im_start|>assistant\n<|tool_call_start|>[f(k='v')]<|tool_call_end|><|im_end|>",
    "harmony": '<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{"k": "v"}<|call|>',
}


def test_each_format_is_chosen_by_what_its_template_writes() -> None:
    assert WRITTEN.keys() == BY_NAME.keys()
    for name, text in WRITTEN.items():
        written = WrittenCall(text, "", "f", {"k": "v"})
        assert next((each.name for each in FORMATS if each.recognises(written)), None) == name
        other = msgspec.structs.replace(written, arguments={"k": "w"})
        assert not any(each.recognises(other) for each in FORMATS), "a control: the call has other arguments"
