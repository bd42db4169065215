"""Calls with elements within elements: jsonschema judges what grammars write and the format reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from histrio.contracts.grammar import VocabularySpec
from histrio.contracts.tool_format import ToolFormat
from histrio.errors import RequestError
from histrio.testing.tool_formats import SCHEMAS
from histrio_api.request.fields import split_fields
from histrio_api.request.forced_calls import calls_grammar
from histrio_api.schemas.chat import ChatRequest
from histrio_api.text.calls.families.minimax_m3 import FORMATS
from histrio_api.text.tokenizer import Tokenizer
from histrio_grammars.backend import Llguidance
from histrio_grammars.testing import RandomWriter

(M3,) = FORMATS
EOS = 2
NS = M3.prefix
SIZE = {"type": "object", "properties": {"w": {"type": "integer"}, "unit": {"enum": ["m", "s"]}}, "required": ["unit"]}
DEEP: dict[str, Any] = {
    "type": "object",
    "properties": {
        "size": {"$ref": "#/$defs/size"},
        "list": {"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/size"}]}},
        "grid": {"type": "array", "items": {"type": "array", "items": {"type": "boolean"}}},
        "maybe": {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"item": {"type": "integer"}}}]},
        "kind": {"enum": ["a", "b"]},
        "count": {"type": ["integer", "null"]},
    },
    "required": ["size", "list", "grid", "kind"],
    "$defs": {"size": SIZE},
}


def grammar_of(schema: dict[str, Any]) -> Any:
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    given = {"messages": [{"role": "user", "content": "x"}], "tools": [tool], "tool_choice": "required"}
    request, _ = split_fields(given, ChatRequest, frozenset())
    return calls_grammar(M3, request)


def calls_in(answer: str, schema: dict[str, Any], tool_format: ToolFormat = M3) -> list[Any]:
    """The arguments of each call."""
    parser = tool_format.parser({"f": schema})
    pieces = [*parser.push(answer).calls, *parser.flush().calls]
    calls: list[str] = []
    for piece in pieces:
        calls += [""] if piece.name else []
        calls[-1] += piece.arguments
    return [json.loads(each) for each in calls]


def test_what_a_grammar_writes_is_read_as_what_the_schema_says(model_folder: Path) -> None:
    tokenizer = Tokenizer.load(model_folder)
    vocabulary = Llguidance().open(VocabularySpec(str(model_folder), tokenizer.vocab_size, (EOS,)))
    grammar = grammar_of(DEEP)
    assert grammar.unenforced == []
    found = []
    for seed in range(12):
        writer = RandomWriter(vocabulary, tokenizer.vocab_size, (EOS,), seed=seed)
        ids, has_ended = writer.write(grammar.spec, 3000)
        if has_ended:
            found += calls_in(tokenizer.decode(ids), DEEP)
    for each in found:
        jsonschema.validate(each, DEEP)
    assert len(found) >= 6
    assert any(each["list"] for each in found)
    assert any(len(row) > 1 for each in found for row in each["grid"]), "a control: there are lists within lists"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found[0] | {"kind": "c"}, DEEP)


def element(key: str, value: str) -> str:
    return f"{NS}<{key}>{value}{NS}</{key}>"


def call(*elements: str) -> str:
    return f'{NS}<tool_call>\n{NS}<invoke name="f">{"".join(elements)}{NS}</invoke>\n{NS}</tool_call>'


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        ({"type": "array"}, "", []),
        ({"type": "object"}, "", {}),
        ({"type": "string"}, "", ""),
        ({}, element("item", "1") + element("item", "x"), [1, "x"]),
        ({"type": "object"}, element("item", "1"), {"item": 1}),
        ({}, element("k", element("item", "true")) + element("item", "2"), {"k": [True], "item": 2}),
        ({"type": "array", "items": {"type": "string"}}, element("item", "1"), ["1"]),
        ({"type": "array", "items": DEEP}, element("item", element("kind", "a")), [{"kind": "a"}]),
        ({"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]}, element("item", "7"), ["7"]),
        ({"type": "integer"}, " 5 ", 5),
        ({"type": "string"}, "</k> <item>5", "</k> <item>5"),
    ],
)
def test_the_schema_says_what_elements_are(schema: dict[str, Any], value: str, expected: Any) -> None:
    tool = {"type": "object", "properties": {"k": schema, "end": {"type": "string"}}}
    answer = call(element("k", value), element("end", "x"))
    assert calls_in(answer, tool) == [{"k": expected, "end": "x"}]


def test_what_cannot_be_written_so_is_refused_or_named() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
    loop = node | {"$defs": {"node": node}}
    with pytest.raises(RequestError, match="within each other"):
        M3.structure("f", loop)
    bound = {"type": "object", "properties": {"k": {"type": "array", "items": {"pattern": "^a"}, "minItems": 2}}}
    assert M3.structure("f", bound).unenforced == ["properties.k.minItems", "properties.k.items.pattern"]
    assert M3.structure("add", SCHEMAS["add"]).unenforced == [], "a control"


def test_what_is_nested_too_deep_to_be_read_ends_nothing() -> None:
    answer = call(element("k", f"{NS}<a>" * 500 + "1" + f"{NS}</a>" * 500), element("end", "x"))
    assert len(calls_in(answer, {})) == 1
