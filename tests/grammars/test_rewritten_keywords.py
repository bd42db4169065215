"""Keywords that are enforced as others: what the grammar takes is what `jsonschema` calls valid."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from histrio.messages import GrammarSpec
from histrio_grammars.backend import Llguidance

OBJECT = {"type": "object"}
CASES: list[tuple[dict[str, Any], str, str]] = [
    ({"type": "string", "not": {"const": "ab"}}, '"" "a" "abc" "b"', '"ab"'),
    ({"type": "string", "not": {"enum": ["", "x", "xy"]}}, '"y" "xyz" "xx"', '"" "x" "xy"'),
    ({"enum": ["a", "b", 1], "not": {"enum": ["b", 2]}}, '"a" 1', '"b" "c"'),
    ({"type": "integer", "not": {"enum": [0, 3]}}, "-1 1 2 4 10", "0 3"),
    ({"type": ["string", "null"], "not": {"type": "null"}}, '"a"', "null"),
    ({"not": {"type": ["object", "array", "string"]}}, "1 null true", '"a" {} []'),
    ({"type": "boolean", "not": {"const": True}}, "false", "true"),
    ({"type": "number", "not": {"minimum": 3}}, "2.5 -1", "3 4"),
    ({"type": "object", "not": {"required": ["a"]}}, '{} {"b":1}', '{"a":1} {"b":1,"a":2}'),
    ({"type": "object", "properties": {"a": {"not": {}}, "b": {}}}, '{} {"b":1}', '{"a":1}'),
    ({"anyOf": [{"not": {}}, {"type": "null"}]}, "null", "1"),
    ({"type": "number", "multipleOf": 0.25}, "0.50 1 -2.75", "0.3 1.1"),
    ({"type": "number", "multipleOf": 0.1}, "0.5 1.0 12.2", "0.25 1.01"),
    ({"type": "number", "maximum": 1e300}, "5 -2.5", '"a"'),
    ({"type": "object", "dependentRequired": {"a": ["b"]}}, '{} {"b":1} {"b":2,"a":1}', '{"a":1}'),
    ({"type": "object", "dependencies": {"a": ["b"]}, "$schema": "http://json-schema.org/draft-07/schema#"}, "{}", ""),
    (
        {"type": "object", "properties": {"a": {}}, "dependentSchemas": {"a": {"properties": {"b": {"const": 1}}}}},
        '{"b":2} {"a":0,"b":1} {"a":0}',
        '{"a":0,"b":2}',
    ),
    (
        {
            "type": "object",
            "properties": {"kind": {"enum": ["x", "y"]}, "size": {"type": "integer"}},
            "required": ["kind"],
            "additionalProperties": False,
            "if": {"properties": {"kind": {"const": "x"}}},
            "then": {"required": ["size"]},
            "else": {"properties": {"size": False}},
        },
        '{"kind":"x","size":1} {"kind":"y"}',
        '{"kind":"x"} {"kind":"y","size":1}',
    ),
    ({"type": "integer", "if": {"minimum": 10}, "then": {"multipleOf": 10}}, "3 10 20", "11 25"),
    (
        {
            "oneOf": [
                {"type": "object", "required": [n], "properties": {n: {}}, "additionalProperties": False} for n in "ab"
            ]
        },
        '{"a":1} {"b":2}',
        '{} {"a":1,"b":2}',
    ),
    ({"oneOf": [{"enum": ["a", 1]}, {"const": "b"}, {"type": "null"}]}, '"a" 1 "b" null', '"c" 2'),
    (
        {"oneOf": [{"type": "object", "properties": {"t": {"const": each}, each: {}}} for each in ("p", "q")]},
        '{"t":"p","p":1} {"t":"q"}',
        '{"t":"r"} 3',
    ),
    ({"type": "object", "minProperties": 1, "additionalProperties": {"type": "integer"}}, '{"a":1}', "{}"),
    (
        {"type": "object", "minProperties": 1, "properties": {"a": {}, "b": {}}, "additionalProperties": False},
        '{"a":1} {"b":1} {"a":1,"b":2}',
        "{}",
    ),
    (
        {"type": "object", "minProperties": 2, "properties": {"a": {}, "b": {}}, "additionalProperties": False},
        '{"a":1,"b":2}',
        '{} {"a":1}',
    ),
    ({"type": "object", "propertyNames": {"enum": ["a", "b"]}}, '{} {"a":1,"b":2}', '{"c":1}'),
    ({"type": "object", "propertyNames": {"pattern": "^[ab]+$"}}, '{"ab":1}', '{"c":1} {"":1}'),
    ({"type": "object", "propertyNames": {"maxLength": 2}}, '{"ab":1}', '{"abc":1}'),
    (
        {
            "allOf": [{"properties": {"a": {"type": "integer"}}}],
            "properties": {"b": {}},
            "type": "object",
            "unevaluatedProperties": False,
        },
        '{"a":1,"b":2} {}',
        '{"c":1} {"a":"x"}',
    ),
    ({"type": "array", "prefixItems": [{"const": 1}], "unevaluatedItems": False}, "[] [1]", "[1,2] [2]"),
    ({"type": "array", "maxItems": 1, "uniqueItems": True}, "[] [1]", "[1,1]"),
    ({"type": "string", "pattern": r"^(?!\.)(?!.*\.\.)[a-z.]+$"}, '"a.b" "ab."', '".a" "a..b" "A"'),
    ({"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?\d*\.?\d*$"}, '"1.5" "-2" ".5"', '"" "-" "."'),
    (
        {
            "type": "object",
            "patternProperties": {"^a": {"type": "integer"}, "^b": {"type": "null"}},
            "additionalProperties": False,
        },
        '{"a1":1,"b":null}',
        '{"c":1} {"a":null}',
    ),
    (
        {
            "properties": {"a": {"items": [{"type": "integer"}]}, "b": {"$ref": "#/properties/a/items/0"}},
            "type": "object",
        },
        '{"a":[1],"b":2}',
        '{"b":"x"}',
    ),
]
"""Schema, texts that follow it, and texts that don't."""


@pytest.mark.parametrize(("schema", "inside", "outside"), CASES, ids=lambda each: str(each)[:40])
def test_the_grammar_takes_what_is_valid(toy: Any, schema: dict[str, Any], inside: str, outside: str) -> None:
    text = json.dumps(schema)
    assert Llguidance().check(GrammarSpec("json_schema", text)) == ()
    for answer in inside.split():
        assert toy.takes("json_schema", text, answer), answer
    for answer in outside.split():
        assert not toy.takes("json_schema", text, answer), answer
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    if "multipleOf" not in schema and "items/0" not in text:  # the judge divides binary numbers, and has no old lists
        assert [kind(schema).is_valid(json.loads(each)) for each in inside.split()] == [True] * len(inside.split())
        needs_tag = "oneOf" in schema and '"t"' in text
        if not needs_tag:
            assert not any(kind(schema).is_valid(json.loads(each)) for each in outside.split())


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"pattern": "a"}}, "not"),
        ({"not": {"type": "integer"}}, "not"),
        ({"if": {"pattern": "a"}, "then": {"minLength": 3}}, "if"),
        ({"if": {"minimum": 1, "uniqueItems": True}, "then": {"multipleOf": 2}}, "if"),
        ({"contains": {"const": 1}, "minContains": 2}, "contains"),
        ({"propertyNames": {"format": "email"}}, "propertyNames"),
        ({"propertyNames": {"enum": ["a"]}, "properties": {"a": {}}}, "propertyNames"),
        ({"dependentRequired": {str(each): ["b"] for each in range(5)}}, "dependentRequired"),
        ({"unevaluatedProperties": False, "anyOf": [{}]}, "unevaluatedProperties"),
        ({"unevaluatedItems": False, "allOf": [{}]}, "unevaluatedItems"),
        ({"$dynamicRef": "#a"}, "$dynamicRef"),
        ({"divisibleBy": 3}, "divisibleBy"),
        ({"x-guidance": {"lenient": True}}, "x-guidance"),
        ({"type": "number", "multipleOf": 0.123456}, "multipleOf"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"type": "object", "maxProperties": 1, "properties": {"a": {}}}, "maxProperties"),
        ({"patternProperties": {"^\\w+$": {"const": 1}}}, "patternProperties"),
        ({"patternProperties": {"^(?=a)": {"const": 1}}}, "patternProperties"),
        ({"patternProperties": {"^a": {"type": "null"}, "t$": {"type": "integer"}}}, "patternProperties"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"type": "number", "minimum": 1e30}, "minimum"),
        ({"type": "string", "pattern": "(?=b)a"}, "pattern"),
        ({"type": "string", "pattern": "^(?!a)b|c"}, "pattern"),
        ({"type": "string", "pattern": "\\bb"}, "pattern"),
    ],
    ids=lambda each: str(each)[:40],
)
def test_what_is_not_enforced_is_named_and_the_rest_is_enforced(toy: Any, schema: dict[str, Any], keyword: str) -> None:
    outer = {"type": "object", "properties": {"a": {"type": "array", "items": schema}}, "additionalProperties": False}
    text = json.dumps(outer)
    assert Llguidance().check(GrammarSpec("json_schema", text)) == (f"properties.a.items.{keyword}",)
    assert toy.takes("json_schema", text, '{"a":[]}')
    assert not toy.takes("json_schema", text, '{"b":[]}')
    assert not toy.takes("json_schema", text, '{"a":{}}')


def test_names_that_patterns_share_keep_any_value(toy: Any) -> None:
    overlapping = {"^a": {"type": "null"}, "t$": {"type": "integer"}}
    for rest, others in ((True, True), ({"type": "null"}, True), (False, False)):
        text = json.dumps({"patternProperties": overlapping, "additionalProperties": rest} | OBJECT)
        assert toy.takes("json_schema", text, '{"at":"both"}')
        assert toy.takes("json_schema", text, '{"b":1}') is others


def test_a_schema_that_was_moved_is_found_by_its_references(toy: Any) -> None:
    """Also where it refers to itself."""
    schema = {
        "type": "object",
        "oneOf": [
            {"properties": {"k": {"const": 1}, "next": {"$ref": "#/oneOf/0"}}, "required": ["k"]},
            {"properties": {"k": {"const": 2}}, "required": ["k"]},
        ],
        "additionalProperties": True,
    }
    text = json.dumps(schema)
    assert toy.takes("json_schema", text, '{"k":1,"next":{"k":1}}')
    assert not toy.takes("json_schema", text, '{"k":1,"next":{"k":2}}')
