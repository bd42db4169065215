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

__all__ = ["Element", "keyword_parameters", "parameters_of"]

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
    properties, required = _properties(schema)
    unenforced = _of_whole(schema)
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
    properties, required = _properties(schema)
    if not properties and schema.get("additionalProperties") is not False:
        return [TagParameter("", "", schema=True, is_required=False, name_end="=")], _of_whole(schema)
    found = [
        TagParameter(f"{key}=", "", schema=_alone(each, schema), is_required=key in required)
        for key, each in properties.items()
    ]
    return found, _of_whole(schema)


def _of_whole(schema: Mapping[str, Any]) -> list[str]:
    """Keywords of the arguments as a whole that no form of single arguments has."""
    return [keyword for keyword in schema if keyword not in _OF_OBJECTS and keyword not in _DESCRIBING]


def _properties(schema: Mapping[str, Any]) -> tuple[Mapping[str, Any], frozenset[str]]:
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
        return TagParameter(begin, end, schema=_alone(schema, root), is_required=is_required), []
    if texts := _texts(schema):
        return TagParameter(begin, end, texts=texts, is_required=is_required), []
    bounds = _bounds(schema) if isinstance(schema, Mapping) else ()
    unenforced = [
        f"properties.{key}.{place}{keyword}" for place, keyword in bounds if keyword in _OF_TEXTS or types != {"string"}
    ]
    return TagParameter(begin, end, stop=stop, is_required=is_required), unenforced


def _texts(schema: Any) -> list[str]:
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


def _alone(schema: Any, root: Mapping[str, Any]) -> dict[str, Any] | bool:
    """The schema of one property as a whole one: what it refers to goes with it."""
    if not isinstance(schema, Mapping):
        return bool(schema)
    return {name: root[name] for name in ("$schema", "$defs", "definitions") if name in root} | dict(schema)
