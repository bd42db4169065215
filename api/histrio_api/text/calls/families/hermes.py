"""Hermes, Qwen 2.5 and 3, and all that were trained after them: an object between `<tool_call>` and `</tool_call>`."""

from __future__ import annotations

from histrio.contracts.tool_format import CallLayout, FormatExample
from histrio_api.text.calls.json_calls import JsonCalls

__all__ = ["FORMATS"]

_EXAMPLES = (
    FormatExample(
        about="one call",
        answer='<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>',
        calls=(("add", '{"a": 1, "b": 2}'),),
    ),
    FormatExample(
        about="parallel calls",
        answer='<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>\n'
        '<tool_call>\n{"name": "say", "arguments": {"text": "hi"}}\n</tool_call>',
        calls=(("add", '{"a": 1, "b": 2}'), ("say", '{"text": "hi"}')),
    ),
    FormatExample(
        about="text around",
        answer='Let me see. <tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call> Done <now.',
        text="Let me see.  Done <now.",
        calls=(("add", '{"a": 1, "b": 2}'),),
    ),
    FormatExample(
        about="unicode and quotes",
        answer='<tool_call>\n{"name": "say", "arguments": {"text": "\\"Zürich\\" 日本 \\u00e9 </tool_call> 🙂\\n"}}\n'
        "</tool_call>",
        calls=(("say", '{"text": "\\"Zürich\\" 日本 \\u00e9 </tool_call> 🙂\\n"}'),),
    ),
    FormatExample(
        about="broken",
        answer='<tool_call>\n{"name": "say", "arguments": {"text": "5" inch"}}</tool_call>',
        calls=(("say", '{"text": "5" inch"}}'),),
    ),
    FormatExample(
        about="broken",
        answer='<tool_call>\n{"nome": 5}\n</tool_call>',
        text='<tool_call>\n{"nome": 5}\n</tool_call>',
    ),
    FormatExample(
        about="no closing mark",
        answer='<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}',
        calls=(("add", '{"a": 1, "b": 2}'),),
    ),
    FormatExample(
        about="arguments first, as a string",
        answer='<tool_call>{"arguments": "{\\"text\\": \\"hi\\"}", "name": "say"}</tool_call>',
        calls=(("say", '{"text": "hi"}'),),
    ),
)

FORMATS = (
    JsonCalls(
        name="hermes",
        begins=("<tool_call>",),
        end="</tool_call>",
        layout=CallLayout(trigger="<tool_call>", separator="\n", takes_text_after=True),
        opening="<tool_call>\n",
        closing="\n</tool_call>",
        source_marks=("tools", "<tool_call>", "</tool_call>"),
        foreign_marks=("<function=", "<arg_key>"),
        examples=_EXAMPLES,
    ),
)
