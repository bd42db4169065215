"""Granite 3: `<|tool_call|>` and a list of objects. (Granite 4 writes as Hermes does.)"""

from __future__ import annotations

from histrio.contracts.tool_format import CallLayout, FormatExample
from histrio_api.text.calls.json_calls import JsonCalls

__all__ = ["FORMATS"]

_EXAMPLES = (
    FormatExample(
        about="one call",
        answer='<|tool_call|>[{"name": "add", "arguments": {"a": 1, "b": 2}}]',
        calls=(("add", '{"a": 1, "b": 2}'),),
    ),
    FormatExample(
        about="one call",
        answer='<tool_call>[{"name": "add", "arguments": {"a": 1, "b": 2}}]',
        calls=(("add", '{"a": 1, "b": 2}'),),
    ),
    FormatExample(
        about="parallel calls",
        answer='<|tool_call|> [{"name": "add", "arguments": {"a": 1, "b": 2}},\n'
        '{"arguments": {"text": "hi"}, "name": "say"}]',
        calls=(("add", '{"a": 1, "b": 2}'), ("say", '{"text": "hi"}')),
    ),
    FormatExample(
        about="text around",
        answer='I add. <|tool_call|>[{"name": "add", "arguments": {"a": 1, "b": 2}}] <Done>',
        text="I add.  <Done>",
        calls=(("add", '{"a": 1, "b": 2}'),),
    ),
    FormatExample(
        about="unicode and quotes",
        answer='<|tool_call|>[{"name": "say", "arguments": {"text": "\\"日本\\" ]}, [ 🙂"}}]',
        calls=(("say", '{"text": "\\"日本\\" ]}, [ 🙂"}'),),
    ),
    FormatExample(
        about="broken",
        answer='<|tool_call|>[{"name": "say", "arguments": {"text": 5" x}}]',
        calls=(("say", '{"text": 5" x}}]'),),
    ),
    FormatExample(
        about="broken",
        answer='<|tool_call|>[{"name": "add", "arguments": {"a": 1, "b": 2}}, nothing]',
        text="nothing]",
        calls=(("add", '{"a": 1, "b": 2}'),),
    ),
)

FORMATS = (
    JsonCalls(
        name="granite",
        begins=("<|tool_call|>", "<tool_call>"),
        end="",
        layout=CallLayout(trigger="<|tool_call|>", before="<|tool_call|>[", separator=", ", after="]"),
        opening="",
        closing="",
        source_marks=("tools", "<|tool_call|>"),
        examples=_EXAMPLES,
    ),
)
