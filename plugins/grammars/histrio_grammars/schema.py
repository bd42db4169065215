"""Which JSON schemas are taken: read once, keyword by keyword, before any compiler sees them.

A keyword either is enforced, or only describes, or its value excludes nothing (`uniqueItems: false`) and it is left
out, or the schema is refused with the keyword's place. The rules are those of draft 2020-12, or of the draft that
`$schema` names.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias
from urllib.parse import unquote

import msgspec

from histrio.errors import RequestError
from histrio_grammars.bounds import LIMITS
from histrio_grammars.expressions import portable
from histrio_grammars.values import (
    FORMATS,
    check_count,
    check_format,
    check_min_properties,
    check_number,
    check_pattern,
    check_pattern_properties,
    check_type,
    limit,
)

__all__ = ["ENFORCED", "decode_schema", "num_levels", "show", "subschemas"]

Path: TypeAlias = tuple[str | int, ...]
"""Keywords, names and positions that lead to a place in a schema."""

_ONE = {"items", "additionalItems", "additionalProperties"}
_LIST = {"anyOf", "allOf", "oneOf", "prefixItems"}
_MAP = {"properties", "patternProperties", "$defs", "definitions"}
_COUNTS = {"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"}
_NUMBERS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}

ENFORCED = frozenset(_ONE | _LIST | _MAP | _COUNTS | _NUMBERS) | {
    "$ref",
    "const",
    "enum",
    "format",
    "pattern",
    "required",
    "type",
}
"""Keywords that restrict the answer."""

_NEUTRAL: dict[str, Callable[[dict[str, Any]], bool]] = {
    "additionalItems": lambda schema: not isinstance(schema.get("items"), list),
    "contains": lambda schema: schema.get("minContains") == 0 and "maxContains" not in schema,
    "dependencies": lambda schema: schema["dependencies"] == {},
    "dependentRequired": lambda schema: schema["dependentRequired"] == {},
    "dependentSchemas": lambda schema: schema["dependentSchemas"] == {},
    "else": lambda schema: "if" not in schema,
    "if": lambda schema: "then" not in schema and "else" not in schema,
    "maxContains": lambda schema: "contains" not in schema,
    "minContains": lambda schema: "contains" not in schema or schema["minContains"] == 0,
    "not": lambda schema: schema["not"] is False,
    "propertyNames": lambda schema: _takes_any_name(schema["propertyNames"]),
    "then": lambda schema: "if" not in schema,
    "unevaluatedItems": lambda schema: schema["unevaluatedItems"] is True or schema["unevaluatedItems"] == {},
    "unevaluatedProperties": lambda schema: (
        schema["unevaluatedProperties"] is True or schema["unevaluatedProperties"] == {}
    ),
    "uniqueItems": lambda schema: schema["uniqueItems"] is False,
}
"""Keywords that are not enforced → whether the schema would mean the same without."""
_VOID: dict[str, Callable[[Any], bool]] = {
    "format": lambda value: isinstance(value, str) and value not in FORMATS,
    "maximum": lambda value: isinstance(value, float) and value >= sys.float_info.max,
    "minimum": lambda value: isinstance(value, float) and value <= -sys.float_info.max,
}
"""Keywords that are enforced → whether this value restricts nothing: an unknown format only describes."""
_TIME = r"^([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
"""Without second 60, which only the last minute of a day has, in the time of Greenwich."""
_REFUSED = frozenset(
    {"$dynamicAnchor", "$dynamicRef", "$recursiveAnchor", "$recursiveRef", "disallow", "divisibleBy", "extends"}
    | {"x-guidance"}
)


def decode_schema(text: str) -> dict[str, Any]:
    """The checked schema, without keywords that exclude nothing, its expressions made `portable`.

    Raises `RequestError` with the place.
    """
    if len(text.encode()) > LIMITS["bytes"]:
        raise RequestError(f"the schema is longer than {LIMITS['bytes']} bytes")

    try:
        schema = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise RequestError("the schema is not valid JSON") from None
    if schema is False:
        raise RequestError("nothing can satisfy this schema")
    if num_levels(schema) > LIMITS["depth"]:
        raise RequestError(f"the schema is nested deeper than {LIMITS['depth']} levels")

    reader = _Reader(schema)
    read: dict[str, Any] = reader.read({} if schema is True else schema, ())
    reader.check_references()
    return read


def num_levels(value: Any) -> int:
    """How deeply arrays and objects are nested; 0 for a plain value."""
    level, inner = 0, [value]
    while inner := [each for each in inner if isinstance(each, dict | list)]:
        level += 1
        inner = [child for each in inner for child in (each.values() if isinstance(each, dict) else each)]
    return level


def subschemas(schema: Any, path: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A checked schema and all schemas within it, with their places; outer schemas come before inner ones."""
    if isinstance(schema, dict):
        yield path, schema
    for place, child in _children(schema, path):
        yield from subschemas(child, place)


def show(path: Path) -> str:
    """A path such as `properties.tags.items`. A name that is long or no word is shown as its position."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _children(schema: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """The schemas directly within, with their places."""
    if not isinstance(schema, dict):
        return

    for keyword, value in schema.items():
        if keyword in _ONE and not isinstance(value, list):
            yield (*path, keyword), value
        elif keyword in _LIST or keyword in _ONE:
            for at, child in enumerate(value):
                yield (*path, keyword, at), child
        elif keyword in _MAP:
            for at, (name, child) in enumerate(value.items()):
                yield (*path, keyword, _shown_name(name, at)), child


def _shown_name(name: str, at: int) -> str | int:
    return name if len(name) <= 40 and name.replace("_", "").replace("-", "").isalnum() and name.isascii() else at


class _Reader:
    """One reading of one schema."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._num_properties = 0
        self._num_enum_values = 0
        self._read_ids: set[int] = set()
        self._references: list[tuple[int, str]] = []
        named = root.get("$schema", "") if isinstance(root, dict) else ""
        named = named if isinstance(named, str) else ""
        self._has_tuples = any(draft in named for draft in ("draft-04", "draft-06", "draft-07", "2019-09"))
        self._has_flags = "draft-04" in named
        """Exclusive bounds are true or false beside a bound."""

    def read(self, schema: Any, path: Path) -> Any:
        """The schema without keywords that exclude nothing. Changes no input."""
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise RequestError("a schema must be an object, true or false", param=show(path))

        self._read_ids.add(id(schema))
        kept = {
            keyword: value
            for keyword, value in (_without_flags(schema, path) if self._has_flags else schema).items()
            if not (keyword in _NEUTRAL and self._is_neutral(keyword, schema))
            if not (keyword in _VOID and _VOID[keyword](value))
        }
        if isinstance(kept.get("items"), list) and "prefixItems" not in kept and not self._has_tuples:
            kept = _with_prefix_items(kept)
        for keyword, value in kept.items():
            self._check(keyword, value, kept, (*path, keyword))
        return _with_children(kept, [self.read(child, place) for place, child in _children(kept, path)])

    def check_references(self) -> None:
        """Every target of a reference must be a schema that was read, because keywords elsewhere are not checked."""
        for target, place in self._references:
            if target not in self._read_ids:
                raise RequestError("$ref must name a place where a schema stands, such as #/$defs/name", param=place)

    def _is_neutral(self, keyword: str, schema: dict[str, Any]) -> bool:
        return _NEUTRAL[keyword](schema)

    def _check(self, keyword: str, value: Any, schema: dict[str, Any], path: Path) -> None:
        place = show(path)
        if keyword in _REFUSED or (keyword in _NEUTRAL and keyword != "additionalItems"):
            raise RequestError(f"the keyword {keyword} cannot be enforced", param=place, code="unsupported_keyword")

        if keyword == "items" and isinstance(value, list) and not self._has_tuples:
            raise RequestError("a list of items cannot stand beside prefixItems", param=place)
        if keyword in _LIST and not (isinstance(value, list) and value):
            raise RequestError(f"{keyword} must be a list with at least one schema", param=place)
        if keyword in _MAP and not isinstance(value, dict):
            raise RequestError(f"{keyword} must be an object", param=place)
        self._check_value(keyword, value, schema, place)

    def _check_value(self, keyword: str, value: Any, schema: dict[str, Any], place: str) -> None:
        match keyword:
            case "type":
                check_type(value, place)
            case "enum":
                self._num_enum_values += self._count_enum(value, place)
                limit("enum values", self._num_enum_values, place)
            case "properties":
                self._num_properties += len(value)
                limit("properties", self._num_properties, place)
            case "required":
                if not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
                    raise RequestError("required must be a list of names", param=place)
                limit("properties", len(value), place)
            case "pattern":
                check_pattern(value, place)
            case "patternProperties":
                check_pattern_properties(value, schema, place)
            case "format":
                check_format(value, place)
            case "$ref":
                self._check_reference(value, place)
            case "minProperties":
                check_count(keyword, value, place)
                check_min_properties(value, schema, place)
            case _ if keyword in _COUNTS:
                check_count(keyword, value, place)
            case _ if keyword in _NUMBERS:
                check_number(keyword, value, place)

    def _count_enum(self, value: Any, place: str) -> int:
        if not (isinstance(value, list) and value):
            raise RequestError("enum must be a list with at least one value", param=place)
        return len(value)

    def _check_reference(self, value: Any, place: str) -> None:
        if not (isinstance(value, str) and (value == "#" or value.startswith("#/"))):
            raise RequestError("$ref must be a path within the schema, such as #/$defs/name", param=place)

        at = self._root
        for part in unquote(value[1:]).split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(at, dict) and name in at:
                at = at[name]
            elif isinstance(at, list) and name.isdecimal() and int(name) < len(at):
                at = at[int(name)]
            else:
                raise RequestError("$ref names a place that the schema does not have", param=place)
        if not isinstance(at, bool | dict):
            raise RequestError("$ref names a place that is no schema", param=place)
        if isinstance(at, dict):
            self._references.append((id(at), place))


def _takes_any_name(schema: Any) -> bool:
    """Whether every name of a property follows the schema, since each is a string."""
    if not isinstance(schema, dict):
        return schema is True
    return schema.keys() <= {"type", "title", "description"} and schema.get("type", "string") == "string"


def _with_prefix_items(schema: dict[str, Any]) -> dict[str, Any]:
    """A list of items, as drafts up to 2019-09 have it and many generators without naming one, as later drafts do."""
    found = {name: value for name, value in schema.items() if name not in ("items", "additionalItems")}
    rest = {"items": schema["additionalItems"]} if "additionalItems" in schema else {}
    return found | {"prefixItems": schema["items"]} | rest


def _without_flags(schema: dict[str, Any], path: Path) -> dict[str, Any]:
    """Draft 4's exclusive bounds as those of later drafts."""
    found = dict(schema)
    for bound, flag in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if not isinstance(schema.get(flag), bool):
            continue
        del found[flag]
        if schema[flag]:
            if bound not in schema:
                raise RequestError(f"{flag} needs {bound} beside it in draft 4", param=show((*path, flag)))
            found[flag] = found.pop(bound)
    return found


def _with_children(schema: dict[str, Any], read: list[Any]) -> dict[str, Any]:
    """`schema` with its direct children, in the order of `_children`, and its expressions exchanged."""
    children = iter(read)
    result: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in _ONE and not isinstance(value, list):
            result[keyword] = next(children)
        elif keyword in _LIST or keyword in _ONE:
            result[keyword] = [next(children) for _ in value]
        elif keyword == "patternProperties":
            result[keyword] = {portable(name, dot="."): next(children) for name in value}
        elif keyword in _MAP:
            result[keyword] = {name: next(children) for name in value}
        elif keyword == "format" and value == "time" and "pattern" not in schema:
            result["pattern"] = portable(_TIME)
        elif keyword == "pattern":
            result[keyword] = portable(value)
        else:
            result[keyword] = value
    return result
