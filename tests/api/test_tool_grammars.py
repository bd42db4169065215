"""A demanded call is written by grammar in the model's own form: what the grammar takes is what the format reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from histrio.contracts.grammar import VocabularySpec
from histrio.contracts.tool_format import ToolFormat
from histrio.testing.tool_formats import SCHEMAS, written_calls
from histrio_api.request.fields import split_fields
from histrio_api.request.forced_calls import form_or_calls
from histrio_api.request.structured import wanted_grammar
from histrio_api.schemas.chat import ChatRequest
from histrio_api.text.calls.families.known import FORMATS
from histrio_api.text.tokenizer import Tokenizer
from histrio_grammars.backend import Llguidance

Takes = Callable[[ToolFormat, dict[str, Any], str], bool]
EOS = 2
FORM: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": ["yes"]}}}
STRICT = [
    {"type": "function", "function": {"name": name, "parameters": schema, "strict": True}}
    for name, schema in SCHEMAS.items()
]
each_format = pytest.mark.parametrize("tool_format", FORMATS, ids=[each.name for each in FORMATS])


@pytest.fixture(scope="module")
def takes(model_folder: Path) -> Takes:
    """Whether the grammar of a request with the kit's tools, and these fields, takes a text to its end."""
    tokenizer = Tokenizer.load(model_folder)
    vocabulary = Llguidance().open(VocabularySpec(str(model_folder), tokenizer.vocab_size, (EOS,)))

    def taken(tool_format: ToolFormat, fields: dict[str, Any], text: str) -> bool:
        given = {"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": STRICT} | fields
        request, sampling = split_fields(given, ChatRequest, frozenset())
        or_calls = partial(form_or_calls, request, tool_format, ())
        wanted = wanted_grammar(request, sampling, list(Llguidance.kinds), or_calls=or_calls)
        assert wanted is not None
        return vocabulary.matcher(wanted.spec).advance([*tokenizer.encode(text, add_special=False), EOS])

    return taken


@each_format
def test_a_demand_takes_calls_of_the_format_and_nothing_else(tool_format: ToolFormat, takes: Takes) -> None:
    both, one = written_calls(tool_format), written_calls(tool_format, names=["say"])
    required: dict[str, Any] = {"tool_choice": "required"}
    assert takes(tool_format, required, both)
    assert not takes(tool_format, required, "text")
    assert not takes(tool_format, required, both.replace("1", "x")), "a control: a is an integer"
    named = {"tool_choice": {"type": "function", "function": {"name": "say"}}}
    assert takes(tool_format, named, one)
    assert not takes(tool_format, named, both)
    assert takes(tool_format, {"tool_choice": "required", "parallel_tool_calls": False}, one)
    assert not takes(tool_format, {"tool_choice": "required", "parallel_tool_calls": False}, both)


@each_format
def test_strict_tools_bind_calls_and_leave_text_free(tool_format: ToolFormat, takes: Takes) -> None:
    one = written_calls(tool_format, names=["add"])
    for text in ("", "Some text.", one, f"I add: {one}"):
        assert takes(tool_format, {}, text), text
    assert not takes(tool_format, {}, one.replace("1", "x"))


@each_format
def test_beside_a_form_the_answer_is_calls_or_text_of_the_form(tool_format: ToolFormat, takes: Takes) -> None:
    fields = {"response_format": FORM}
    for text in (json.dumps("yes"), written_calls(tool_format)):
        assert takes(tool_format, fields, text), text
    for text in ("yes", json.dumps("no"), f'"yes"{written_calls(tool_format)}'):
        assert not takes(tool_format, fields, text), text
