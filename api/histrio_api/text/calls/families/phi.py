"""Phi-4-mini: a list of objects between `<|tool_call|>` and `<|/tool_call|>`, or behind `functools`."""

from __future__ import annotations

from histrio.contracts.tool_format import CallLayout, FormatExample
from histrio_api.text.calls.json_calls import JsonCalls

__all__ = ["FORMATS"]

_EXAMPLES = (
    FormatExample(
        about="one call",
        answer='<|tool_call|>[{"name": "add", "arguments": {"a": 1, "b": 2}}]<|/tool_call|>',
        calls=(("add", '{"a": 1, "b": 2}'),),
    ),
    FormatExample(
        about="one call",
        answer='functools[{"name": "add", "arguments": {"a": 1, "b": 2}}]',
        calls=(("add", '{"a": 1, "b": 2}'),),
    ),
    FormatExample(
        about="parallel calls",
        answer='<|tool_call|>[{"name": "add", "arguments": {"a": 1, "b": 2}}, '
        '{"name": "say", "arguments": {"text": "hi"}}]<|/tool_call|>',
        calls=(("add", '{"a": 1, "b": 2}'), ("say", '{"text": "hi"}')),
    ),
    FormatExample(
        about="text around",
        answer='My functools: <|tool_call|>[{"name": "add", "arguments": {"a": 1, "b": 2}}]<|/tool_call|>Done.',
        text="My functools: Done.",
        calls=(("add", '{"a": 1, "b": 2}'),),
    ),
    FormatExample(
        about="unicode and quotes",
        answer='<|tool_call|>[{"name": "say", "arguments": {"text": "\\"日本\\" <|/tool_call|> 🙂"}}]<|/tool_call|>',
        calls=(("say", '{"text": "\\"日本\\" <|/tool_call|> 🙂"}'),),
    ),
    FormatExample(
        about="broken",
        answer='<|tool_call|>[{"name": "say", "arguments": {"text": "5" x}}]<|/tool_call|> So.',
        text=" So.",
        calls=(("say", '{"text": "5" x}}]'),),
    ),
)

FORMATS = (
    JsonCalls(
        name="phi",
        begins=("<|tool_call|>", "functools"),
        end="<|/tool_call|>",
        layout=CallLayout(trigger="<|tool_call|>", before="<|tool_call|>[", separator=", ", after="]<|/tool_call|>"),
        opening="",
        closing="",
        examples=_EXAMPLES,
    ),
)
