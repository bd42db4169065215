"""Llama: objects with `parameters` by themselves (3.1, 3.3), or calls as Python writes them (3.2, 4)."""

from __future__ import annotations

from histrio.contracts.tool_format import CallLayout, FormatExample
from histrio_api.text.calls.json_calls import JsonCalls
from histrio_api.text.calls.pythonic_calls import PythonicCalls

__all__ = ["FORMATS"]

_JSON_EXAMPLES = (
    FormatExample(
        about="one call",
        answer='{"name": "add", "parameters": {"a": 1, "b": 2}}',
        calls=(("add", '{"a": 1, "b": 2}'),),
    ),
    FormatExample(
        about="one call",
        answer='<|python_tag|>{"type": "function", "name": "add", "parameters": {"a": 1, "b": 2}}',
        calls=(("add", '{"a": 1, "b": 2}'),),
    ),
    FormatExample(
        about="parallel calls",
        answer='{"name": "add", "parameters": {"a": 1, "b": 2}}; {"name": "say", "parameters": {"text": "hi"}}',
        calls=(("add", '{"a": 1, "b": 2}'), ("say", '{"text": "hi"}')),
    ),
    FormatExample(
        about="text around",
        answer='In {} I call: {"name": "add", "parameters": {"a": 1, "b": 2}} and wait.',
        text="In {} I call:  and wait.",
        calls=(("add", '{"a": 1, "b": 2}'),),
    ),
    FormatExample(
        about="unicode and quotes",
        answer='{"name": "say", "parameters": {"text": "\\"日本\\" }; { 🙂"}}',
        calls=(("say", '{"text": "\\"日本\\" }; { 🙂"}'),),
    ),
    FormatExample(
        about="broken",
        answer='{"name": "say", "parameters": {"text": "5" x}}',
        calls=(("say", '{"text": "5" x}}'),),
    ),
    FormatExample(
        about="an object that is no call",
        answer='{"name": "Anna", "parameters": {"a": 1}} {"a": {"name": "b"}}',
        text='{"name": "Anna", "parameters": {"a": 1}} {"a": {"name": "b"}}',
    ),
)

_PYTHONIC_EXAMPLES = (
    FormatExample(about="one call", answer="[add(a=1, b=2)]", calls=(("add", '{"a": 1, "b": 2}'),)),
    FormatExample(
        about="one call",
        answer="<|python_start|>[add(a=1, b=-2)]<|python_end|>",
        calls=(("add", '{"a": 1, "b": -2}'),),
    ),
    FormatExample(
        about="parallel calls",
        answer="[add(a=1, b=2), say(text='hi')]",
        calls=(("add", '{"a": 1, "b": 2}'), ("say", '{"text": "hi"}')),
    ),
    FormatExample(
        about="text around",
        answer="As in [1]: [add(a=1, b=2)] See [2].",
        text="As in [1]:  See [2].",
        calls=(("add", '{"a": 1, "b": 2}'),),
    ),
    FormatExample(
        about="unicode and quotes",
        answer="""[say(text='"日本" it\\'s ), [ \U0001f642', more=[True, None, {'k': 1.5}])]""",
        calls=(("say", '{"text": "\\"日本\\" it\'s ), [ 🙂", "more": [true, null, {"k": 1.5}]}'),),
    ),
    FormatExample(
        about="broken",
        answer="[say(text=5 inch)]",
        calls=(("say", '{"text": "5 inch"}'),),
    ),
    FormatExample(
        about="a list that is no call",
        answer="[other(a=1)]",
        text="[other(a=1)]",
    ),
    FormatExample(about="no arguments", answer="[add()]", calls=(("add", "{}"),)),
)

FORMATS = (
    JsonCalls(
        name="llama-json",
        begins=("{", "<|python_tag|>"),
        end="",
        layout=CallLayout(separator="; "),
        opening="",
        closing="",
        arguments_key="parameters",
        joint=";",
        is_marked=False,
        examples=_JSON_EXAMPLES,
    ),
    PythonicCalls(
        name="pythonic",
        begins=("[", "<|python_start|>["),
        end="]",
        trailer="<|python_end|>",
        is_marked=False,
        examples=_PYTHONIC_EXAMPLES,
    ),
)
