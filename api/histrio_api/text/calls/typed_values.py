"""Arguments that a model writes as plain text become JSON, by what the schema of the tool says of their types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from histrio_api.text.calls.json_values import decoded

__all__ = ["as_json", "branch_of", "escaped", "is_text", "item_schema", "property_schema", "types_of"]

_ANY = frozenset({"string", "number", "integer", "boolean", "null", "array", "object"})
_MAX_DEPTH = 8
_SPELLED = {"True": "true", "False": "false", "None": "null"}
"""As Python writes them, which some templates do."""


def property_schema(schema: Mapping[str, Any] | None, key: str) -> Any:
    """The schema of one argument; true where nothing is known of it."""
    properties = (schema or {}).get("properties")
    return properties.get(key, True) if isinstance(properties, Mapping) else True


def branch_of(schema: Any, root: Mapping[str, Any] | None, kind: str) -> Mapping[str, Any] | None:
    """The part of a schema that speaks of values of this JSON type: behind references and alternatives."""
    for _ in range(_MAX_DEPTH):
        if not isinstance(schema, Mapping):
            return None
        branches = [each for key in ("anyOf", "oneOf") for each in schema.get(key) or ()]
        nexts = [each for each in (*branches, *_also(schema, root)) if kind in types_of(each, root)]
        if not nexts or schema.get("properties") or schema.get("items"):
            return schema
        schema = nexts[0]
    return None


def item_schema(schema: Any, root: Mapping[str, Any] | None) -> Any:
    """The schema of each element of a list; true where nothing is known of it."""
    return (branch_of(schema, root, "array") or {}).get("items", True)


def types_of(schema: Any, root: Mapping[str, Any] | None, depth: int = 0) -> frozenset[str]:
    """The JSON types that a value may have, as far as the schema tells; all of them where it does not."""
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return _ANY

    found = _ANY
    if (kind := schema.get("type")) is not None:
        found &= frozenset([kind] if isinstance(kind, str) else kind)
    if isinstance(values := schema.get("enum"), list):
        found &= frozenset(map(_type_of, values))
    if "const" in schema:
        found &= {_type_of(schema["const"])}
    for key in ("anyOf", "oneOf"):
        if isinstance(branches := schema.get(key), list):
            found &= frozenset[str]().union(*(types_of(each, root, depth + 1) for each in branches))
    for each in _also(schema, root):
        found &= types_of(each, root, depth + 1)
    return found


def is_text(schema: Any, root: Mapping[str, Any] | None) -> bool:
    """Whether a value can be nothing but a string."""
    return types_of(schema, root) == {"string"}


def as_json(text: str, types: frozenset[str]) -> str:
    """A value as JSON: what the text says, if it is JSON of one of the types; or else the text itself as a string."""
    stripped = text.strip()
    stripped = _SPELLED.get(stripped, stripped)
    value = decoded(stripped) if stripped else None
    is_number = "integer" in types or "number" in types
    if stripped == "null" or (value is not None and not isinstance(value, str)):
        kind = _type_of(value)
        if kind in types or (kind in ("integer", "number") and is_number):
            return stripped
    if isinstance(value, str) and "string" not in types:
        return stripped
    return msgspec.json.encode(text).decode()


def escaped(text: str) -> str:
    """A piece of a string as it stands within a JSON string."""
    return msgspec.json.encode(text).decode()[1:-1]


def _also(schema: Mapping[str, Any], root: Mapping[str, Any] | None) -> Iterator[Any]:
    """Schemas that hold besides."""
    if isinstance(every := schema.get("allOf"), list):
        yield from every
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        found: Any = root
        for name in reference[2:].split("/"):
            found = found.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
        yield found


def _type_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"
