"""Arguments that stand by themselves, as a grammar: one parameter for each property of their schema.

A string stands there as plain text, so that nothing of it can be enforced but what a list of texts says; anything else
is JSON after its own schema.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import msgspec

from histrio.contracts.grammar import TagParameter
from histrio.errors import RequestError
from histrio_api.text.calls.typed_values import types_of

__all__ = [
    "Element",
    "alone",
    "keyword_parameters",
    "parameters_of",
    "properties_of",
    "texts_of",
    "unenforced_of_texts",
    "unknown_of",
]

Element = Callable[[str, Collection[str]], tuple[str, str]]
"""What stands before and behind the value of an argument of this name, and of these types of JSON."""

_OF_OBJECTS = frozenset(
    {"type", "properties", "required", "additionalProperties", "$defs", "definitions", "strict", "propertyNames"}
)
_DESCRIBING = frozenset({"title", "description", "default", "examples", "deprecated", "$schema", "$id", "$comment"})
_OF_TEXTS = frozenset({"minLength", "maxLength", "pattern", "format"})
_ANY_KEY = "\x00"


def parameters_of(schema: Mapping[str, Any], element: Element, stop: str) -> tuple[list[TagParameter], list[str]]:
    """In the order of the properties, and places in the schema of what calls of this form cannot be held to.

    `stop` is what no plain text can contain. Raises `RequestError` for what no call can satisfy.
    """
    properties, required = properties_of(schema)
    unenforced = unknown_of(schema)
    if not properties and schema.get("additionalProperties") is not False:
        begin, end = element(_ANY_KEY, ("string",))
        first, _, name_end = begin.partition(_ANY_KEY)
        return [TagParameter(first, end, stop=stop, is_required=False, name_end=name_end)], unenforced
    found = []
    for key, each in properties.items():
        parameter, beyond = _parameter(key, each, schema, (element, stop, key in required))
        found.append(parameter)
        unenforced += beyond
    return found, unenforced


def keyword_parameters(schema: Mapping[str, Any]) -> tuple[list[TagParameter], list[str]]:
    """As `name=value`, where every value is JSON; else as `parameters_of`."""
    properties, required = properties_of(schema)
    if not properties and schema.get("additionalProperties") is not False:
        return [TagParameter("", "", schema=True, is_required=False, name_end="=")], unknown_of(schema)
    found = [
        TagParameter(f"{key}=", "", schema=alone(each, schema), is_required=key in required)
        for key, each in properties.items()
    ]
    return found, unknown_of(schema)


def unknown_of(schema: Mapping[str, Any]) -> list[str]:
    """Keywords of the arguments as a whole that no form of single arguments has."""
    return [keyword for keyword in schema if keyword not in _OF_OBJECTS and keyword not in _DESCRIBING]


def properties_of(schema: Mapping[str, Any]) -> tuple[Mapping[str, Any], frozenset[str]]:
    """Those that a schema names, and which of them are required. Raises `RequestError`."""
    properties: Mapping[str, Any] = schema.get("properties") or {}
    required = frozenset(schema.get("required") or ())
    if required - properties.keys():
        raise RequestError("a required name is no property", param="required")
    return properties, required


def _parameter(
    key: str, schema: Any, root: Mapping[str, Any], how: tuple[Element, str, bool]
) -> tuple[TagParameter, list[str]]:
    element, stop, is_required = how
    types = types_of(schema, root)
    begin, end = element(key, types)
    if "string" not in types:
        return TagParameter(begin, end, schema=alone(schema, root), is_required=is_required), []
    if texts := texts_of(schema):
        return TagParameter(begin, end, texts=texts, is_required=is_required), []
    unenforced = [f"properties.{key}.{keyword}" for keyword in unenforced_of_texts(schema, types)]
    return TagParameter(begin, end, stop=stop, is_required=is_required), unenforced


def unenforced_of_texts(schema: Any, types: Collection[str]) -> list[str]:
    """Keywords, with their places, that a value that stands as plain text cannot be held to."""
    bounds = _bounds(schema) if isinstance(schema, Mapping) else ()
    return [f"{place}{keyword}" for place, keyword in bounds if keyword in _OF_TEXTS or types != {"string"}]


def texts_of(schema: Any) -> list[str]:
    """The texts that a value may be, if the schema lists them."""
    if not isinstance(schema, Mapping):
        return []
    listed = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return [each if isinstance(each, str) else msgspec.json.encode(each).decode() for each in listed]


def _bounds(schema: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, str]]:
    """Keywords that restrict a value, with their places; those of strings, and of what else it may be."""
    plain = {"type", "anyOf", *_DESCRIBING}
    for keyword in schema:
        if keyword not in plain:
            yield place, keyword
    for at, each in enumerate(schema.get("anyOf") or ()):
        if isinstance(each, Mapping):
            yield from _bounds(each, f"{place}anyOf[{at}].")


def alone(schema: Any, root: Mapping[str, Any]) -> dict[str, Any] | bool:
    """The schema of one property as a whole one: what it refers to goes with it."""
    if not isinstance(schema, Mapping):
        return bool(schema)
    return {name: root[name] for name in ("$schema", "$defs", "definitions") if name in root} | dict(schema)
