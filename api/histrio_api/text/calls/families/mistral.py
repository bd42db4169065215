"""Mistral: `[TOOL_CALLS]` and a list of objects (7B v0.3, Nemo), or a name, `[ARGS]` and JSON for each call."""

from __future__ import annotations

from histrio.contracts.tool_format import CallLayout, FormatExample
from histrio_api.text.calls.json_calls import JsonCalls
from histrio_api.text.calls.named_calls import NamedCalls

__all__ = ["FORMATS"]

_LIST_EXAMPLES = (
    FormatExample(
        about="one call",
        answer='[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1, "b": 2}}]',
        calls=(("add", '{"a": 1, "b": 2}'),),
    ),
    FormatExample(
        about="parallel calls",
        answer='[TOOL_CALLS][{"name": "add", "arguments": {"a": 1, "b": 2}}, '
        '{"name": "say", "arguments": {"text": "hi"}}]',
        calls=(("add", '{"a": 1, "b": 2}'), ("say", '{"text": "hi"}')),
    ),
    FormatExample(
        about="text around",
        answer='See [1]. [TOOL_CALLS][{"name": "add", "arguments": {"a": 1, "b": 2}}] Done.',
        text="See [1].  Done.",
        calls=(("add", '{"a": 1, "b": 2}'),),
    ),
    FormatExample(
        about="unicode and quotes",
        answer='[TOOL_CALLS][{"name": "say", "arguments": {"text": "\\"日本\\" ]}, 🙂 [TOOL_CALLS]"}}]',
        calls=(("say", '{"text": "\\"日本\\" ]}, 🙂 [TOOL_CALLS]"}'),),
    ),
    FormatExample(
        about="broken",
        answer='[TOOL_CALLS][{"name": "say", "arguments": {"text": "5" x}}]',
        calls=(("say", '{"text": "5" x}}]'),),
    ),
    FormatExample(about="broken", answer="[TOOL_CALLS] none", text="[TOOL_CALLS] none"),
)

_NAMED_EXAMPLES = (
    FormatExample(
        about="one call", answer='[TOOL_CALLS]add[ARGS]{"a": 1, "b": 2}', calls=(("add", '{"a": 1, "b": 2}'),)
    ),
    FormatExample(
        about="one call",
        answer='[TOOL_CALLS]add[CALL_ID]abc123def[ARGS]{"a": 1, "b": 2}',
        calls=(("add", '{"a": 1, "b": 2}'),),
    ),
    FormatExample(
        about="one call",
        answer='[TOOL_CALLS][{"name": "add", "arguments": {"a": 1, "b": 2}}]',
        calls=(("add", '{"a": 1, "b": 2}'),),
    ),
    FormatExample(
        about="parallel calls",
        answer='[TOOL_CALLS]add[ARGS]{"a": 1, "b": 2}[TOOL_CALLS]say[ARGS]{"text": "hi"}',
        calls=(("add", '{"a": 1, "b": 2}'), ("say", '{"text": "hi"}')),
    ),
    FormatExample(
        about="text around",
        answer='I add.[TOOL_CALLS]add[ARGS]{"a": 1, "b": 2} Done.',
        text="I add. Done.",
        calls=(("add", '{"a": 1, "b": 2}'),),
    ),
    FormatExample(
        about="unicode and quotes",
        answer='[TOOL_CALLS]say[ARGS]{"text": "\\"日本\\" } 🙂 [TOOL_CALLS]"}',
        calls=(("say", '{"text": "\\"日本\\" } 🙂 [TOOL_CALLS]"}'),),
    ),
    FormatExample(
        about="broken",
        answer='[TOOL_CALLS]say[ARGS]{"text": "5" x}[TOOL_CALLS]add[ARGS]{"a": 1, "b": 2}',
        calls=(("say", '{"text": "5" x}'), ("add", '{"a": 1, "b": 2}')),
    ),
    FormatExample(about="broken", answer="[TOOL_CALLS]add", text="[TOOL_CALLS]add"),
)

FORMATS = (
    JsonCalls(
        name="mistral-list",
        begins=("[TOOL_CALLS]",),
        end="",
        layout=CallLayout(trigger="[TOOL_CALLS]", before="[TOOL_CALLS][", separator=", ", after="]"),
        opening="",
        closing="",
        has_short_ids=True,
        source_marks=("[AVAILABLE_TOOLS]", "[TOOL_CALLS]"),
        foreign_marks=("[ARGS]",),
        examples=_LIST_EXAMPLES,
    ),
    NamedCalls(
        name="mistral",
        begins=("[TOOL_CALLS]",),
        middles=("[ARGS]",),
        ends=(),
        id_mark="[CALL_ID]",
        takes_list=True,
        has_short_ids=True,
        source_marks=("[AVAILABLE_TOOLS]", "[ARGS]"),
        examples=_NAMED_EXAMPLES,
    ),
)
