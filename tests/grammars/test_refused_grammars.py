"""What cannot be enforced is refused, with its place, and without a word of what the client wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from histrio.errors import RequestError
from histrio.front.grammar_trial import try_grammar
from histrio.messages import GrammarSpec
from histrio_grammars.backend import Llguidance
from histrio_grammars.bounds import LIMITS

SECRET = "s3cret"


def within(schema: Any) -> dict[str, Any]:
    """The schema two levels down."""
    return {"type": "object", "properties": {"a": {"type": "array", "items": schema}}}


def check(toy: Any, spec: GrammarSpec) -> None:
    """As the front does."""
    Llguidance().check(spec)
    try_grammar(toy.vocabulary, spec, toy.spec)


def refused(toy: Any, kind: str, text: str) -> RequestError:
    spec = GrammarSpec(kind, text)
    with pytest.raises(RequestError) as caught:
        check(toy, spec)
    assert SECRET not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "string", "pattern": f"({SECRET}"}, "pattern"),
        ({"allOf": [{"maxProperties": 1, "type": "object"}, {"properties": {SECRET: {}}}]}, "allOf[0].maxProperties"),
    ],
)
def test_what_the_compiler_refuses_is_named_with_its_place(toy: Any, schema: dict[str, Any], keyword: str) -> None:
    error = refused(toy, "json_schema", json.dumps(within(schema)))
    assert error.param == f"properties.a.items.{keyword}"
    assert error.code == "unsupported_keyword"
    assert keyword.rpartition(".")[2] in str(error)


def test_of_several_places_the_guilty_one_is_named(toy: Any) -> None:
    fine = {"type": "string", "pattern": "^a"}
    guilty = {"type": "string", "pattern": "(a"}
    schema = {"properties": {"a": fine, "b": {"items": guilty}, "c": fine}}
    assert refused(toy, "json_schema", json.dumps(schema)).param == "properties.b.items.pattern"


@pytest.mark.parametrize(
    ("schema", "param"),
    [
        ({"type": SECRET}, "type"),
        ({"type": []}, "type"),
        ({"enum": []}, "enum"),
        ({"required": SECRET}, "required"),
        ({"minLength": -1}, "minLength"),
        ({"maxItems": True}, "maxItems"),
        ({"minimum": SECRET}, "minimum"),
        ({"minimum": 3, "exclusiveMinimum": True}, "exclusiveMinimum"),
        ({"multipleOf": 0}, "multipleOf"),
        ({"anyOf": []}, "anyOf"),
        ({"anyOf": [{}, SECRET]}, "anyOf[1]"),
        ({"properties": [SECRET]}, "properties"),
        ({"items": [{"type": "string"}], "prefixItems": [{}]}, "items"),
        ({"$ref": f"#/$defs/{SECRET}"}, "$ref"),
        ({"$ref": f"http://localhost/{SECRET}"}, "$ref"),
        ({"$ref": "#/type", "type": "string"}, "$ref"),
        ({"$ref": "#/elsewhere", "elsewhere": {"minimum": 1}}, "$ref"),
        ({"not": {"type": SECRET}}, "not.type"),
        ({"if": {"required": "a"}, "then": {}}, "if.required"),
        ({"propertyNames": {"pattern": 3}}, "propertyNames.pattern"),
        ({"contains": {"minItems": SECRET}}, "contains.minItems"),
        ({"dependentRequired": {SECRET: "b"}}, "dependentRequired"),
        ({"dependencies": {"a": [3]}}, "dependencies"),
        ({"dependentSchemas": {"a": {"enum": []}}}, "dependentSchemas.a.enum"),
        ({"properties": {"no word " + SECRET: {"type": 3}}}, "properties[0].type"),
    ],
)
def test_a_malformed_schema_is_refused_at_its_place(toy: Any, schema: dict[str, Any], param: str) -> None:
    assert refused(toy, "json_schema", json.dumps(schema)).param == param


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "3", '"text"', '{"a":NaN}', "[" * 10_000, '{"const":' + "[" * 200 + "]" * 200 + "}"]
)
def test_a_schema_that_is_no_schema_is_refused(toy: Any, text: str) -> None:
    refused(toy, "json_schema", text)


def nested(num_levels: int) -> str:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(num_levels - 1):
        schema = {"type": "array", "items": schema}
    return json.dumps(schema)


def named(num_properties: int) -> str:
    return json.dumps({"type": "object", "properties": {f"p{i}": {"type": "null"} for i in range(num_properties)}})


LARGEST: dict[str, Callable[[int], str]] = {
    "depth": nested,
    "properties": named,
    "enum values": lambda count: json.dumps({"enum": list(range(count))}),
    "pattern characters": lambda count: json.dumps({"type": "string", "pattern": "a" * count}),
    "multipleOf": lambda count: json.dumps({"type": "integer", "multipleOf": count}),
}


@pytest.mark.parametrize("what", LARGEST)
def test_the_largest_schema_is_taken_and_a_larger_one_refused(toy: Any, what: str) -> None:
    try_grammar(toy.vocabulary, GrammarSpec("json_schema", LARGEST[what](LIMITS[what])), toy.spec)
    assert str(LIMITS[what]) in str(refused(toy, "json_schema", LARGEST[what](LIMITS[what] + 1)))


@pytest.mark.parametrize("kind", ["json_schema", "regex", "choice", "lark", "gbnf"])
def test_a_grammar_longer_than_the_limit_is_refused(toy: Any, kind: str) -> None:
    assert str(LIMITS["bytes"]) in str(refused(toy, kind, "#" * (LIMITS["bytes"] + 1)))


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("regex", f"({SECRET}", "malformed"),
        ("regex", f"(?={SECRET})a", "looks around"),
        ("regex", f"\\b{SECRET}", "looks around"),
        ("regex", "a" * (LIMITS["pattern characters"] + 1), "characters"),
        ("choice", "[]", "1 to"),
        ("choice", f'["{SECRET}", 3]', "strings"),
        ("choice", json.dumps(["x"] * (LIMITS["choices"] + 1)), "1 to"),
        ("lark", f'start: "{SECRET}" foo', "line 1"),
        ("lark", f'strt: "{SECRET}"', "mistake"),
        ("lark", 'start: %json {"x-guidance": {"lenient": true}}', "%json"),
        ("lark", 'start[temperature=0.5]: "a"', "temperature"),
        ("gbnf", f'root ::= "{SECRET}" foo', "mistake"),
        ("gbnf", f'root ::= "a"\nb ::= "{SECRET}', "line 2"),
        ("gbnf", 'root ::= "\\ud800"', "does not exist"),
        ("gbnf", "root ::= " + "(" * 5000, "mistake"),
        ("json_schema", '{"$ref":"#"}', "without end"),
        ("json_schema", "false", "nothing can satisfy"),
        ("json_schema", '{"not": {"title": "any"}}', "nothing can satisfy"),
        ("json_schema", '{"type":"integer","minimum":5,"maximum":3}', "nothing can satisfy"),
    ],
)
def test_a_grammar_that_does_not_compile_is_refused(toy: Any, kind: str, text: str, words: str) -> None:
    assert words in str(refused(toy, kind, text))


@pytest.mark.parametrize(
    "schema",
    [
        {"uniqueItems": False, "not": False, "propertyNames": True, "unevaluatedProperties": {}},
        {"if": {"type": "string"}},
        {"then": {"minLength": 3}},
        {"minContains": 3},
        {"additionalItems": False},
        {"title": "T", "description": "D", "default": 1, "examples": [2], "nullable": True, "x-own": 1},
        {"type": "integer", "format": "int32"},
        {"type": "string", "format": "color"},
        {"propertyNames": {"type": "string"}, "additionalProperties": {"type": "integer"}},
        {"type": "number", "minimum": -1.7976931348623157e308, "maximum": 1.7976931348623157e308},
        {"minProperties": 1, "required": ["a"]},
        {"minProperties": 1, "properties": {"a": {}}, "additionalProperties": False},
        {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "null"}], "additionalItems": False},
        {"$defs": {"a/b c": {"type": "null"}}, "items": {"$ref": "#/$defs/a~1b%20c"}},
        {"multipleOf": 0.25},
        {"patternProperties": {"^x.*$": {"type": "null"}}},
        {"patternProperties": {"^\\w+$": {"type": "null"}}, "additionalProperties": False},
    ],
)
def test_what_excludes_nothing_or_is_enforced_is_taken(toy: Any, schema: dict[str, Any]) -> None:
    try_grammar(toy.vocabulary, GrammarSpec("json_schema", json.dumps(schema)), toy.spec)


def test_a_list_of_items_is_read_as_tuples_are(toy: Any) -> None:
    schema = {"type": "array", "items": [{"const": 1}, {"const": True}], "additionalItems": False, "minItems": 2}
    found = [toy.takes("json_schema", json.dumps(schema), text) for text in ("[1,true]", "[true,1]", "[1,true,1]")]
    assert found == [True, False, False]


DRAFT_4 = {"$schema": "http://json-schema.org/draft-04/schema#"}


@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [
        ({"minimum": 1, "exclusiveMinimum": True, "maximum": 4, "exclusiveMaximum": True}, "23", "014"),
        ({"minimum": 1, "exclusiveMinimum": False, "maximum": 4, "exclusiveMaximum": False}, "1234", "05"),
        ({"minimum": 1, "maximum": 4, "exclusiveMaximum": True}, "123", "04"),
        ({"exclusiveMinimum": False}, "05", ""),
    ],
)
def test_exclusive_bounds_of_draft_4_are_flags(toy: Any, bounds: dict[str, Any], inside: str, outside: str) -> None:
    items = {"items": [{"type": "integer"} | bounds]}
    for schema, around in ((DRAFT_4 | {"type": "integer"} | bounds, "{}"), (DRAFT_4 | items, "[{}]")):
        found = [toy.takes("json_schema", json.dumps(schema), around.format(each)) for each in inside + outside]
        assert found == [True] * len(inside) + [False] * len(outside)
    if bounds.get("exclusiveMinimum"):
        assert refused(toy, "json_schema", json.dumps({"type": "integer"} | bounds)).param == "exclusiveMinimum"
        alone = DRAFT_4 | {"exclusiveMinimum": True}
        assert "beside it" in str(refused(toy, "json_schema", json.dumps(alone))), "a flag of nothing"
