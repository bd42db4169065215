"""Whether a schema is one: keywords have values of their kind, references lead to schemas, all within limits.

Read like this, a schema has no keywords any more whose values exclude nothing, and none that only older drafts have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from histrio.errors import RequestError
from histrio_grammars.places import LISTS, MAPS, Path, children, show
from histrio_grammars.values import FORMATS, check_count, check_format, check_number, check_pattern, check_type, limit

__all__ = ["COUNTS", "NUMBERS", "WellFormed"]

COUNTS = frozenset({"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"})
NUMBERS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})

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
}
"""Keywords that are enforced → whether this value restricts nothing: an unknown format only describes."""


class WellFormed:
    """A schema that has been checked. Raises `RequestError` with the place."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self._num_properties = 0
        self._num_enum_values = 0
        self._kept: dict[int, dict[str, Any]] = {}
        self._references: list[tuple[str, str]] = []
        named = root.get("$schema", "") if isinstance(root, dict) else ""
        named = named if isinstance(named, str) else ""
        self._has_tuples = any(draft in named for draft in ("draft-04", "draft-06", "draft-07", "2019-09"))
        self._has_flags = "draft-04" in named
        """Exclusive bounds are true or false beside a bound."""
        self._check(root, ())
        for reference, place in self._references:
            target = self._target(reference, place)
            if isinstance(target, dict) and id(target) not in self._kept:
                # Keywords elsewhere are not checked.
                raise RequestError("$ref must name a place where a schema stands, such as #/$defs/name", param=place)

    def kept(self, schema: dict[str, Any]) -> dict[str, Any]:
        """What is left of a schema within the root."""
        return self._kept[id(schema)]

    def target(self, reference: str) -> Any:
        """The schema that a reference names, without what is not kept."""
        found = self._target(reference, "")
        return self._kept[id(found)] if isinstance(found, dict) else found

    def raw_target(self, reference: str) -> Any:
        """The same as it came."""
        return self._target(reference, "")

    def _check(self, schema: Any, path: Path) -> None:
        if isinstance(schema, bool):
            return
        if not isinstance(schema, dict):
            raise RequestError("a schema must be an object, true or false", param=show(path))

        kept = {
            keyword: value
            for keyword, value in (_without_flags(schema, path) if self._has_flags else schema).items()
            if not (keyword in _NEUTRAL and _NEUTRAL[keyword](schema))
            if not (keyword in _VOID and _VOID[keyword](value))
        }
        if isinstance(kept.get("items"), list) and "prefixItems" not in kept and not self._has_tuples:
            kept = _with_prefix_items(kept)
        self._kept[id(schema)] = kept
        for keyword, value in kept.items():
            self._check_keyword(keyword, value, show((*path, keyword)))
        for place, child in children(kept, path):
            self._check(child, place)

    def _check_keyword(self, keyword: str, value: Any, place: str) -> None:
        if keyword == "items" and isinstance(value, list) and not self._has_tuples:
            raise RequestError("a list of items cannot stand beside prefixItems", param=place)
        if keyword in LISTS and not (isinstance(value, list) and value):
            raise RequestError(f"{keyword} must be a list with at least one schema", param=place)
        if (keyword in MAPS or keyword == "dependentRequired") and not isinstance(value, dict):
            raise RequestError(f"{keyword} must be an object", param=place)
        self._check_value(keyword, value, place)

    def _check_value(self, keyword: str, value: Any, place: str) -> None:
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
                _require_names(value, place)
            case "dependentRequired":
                for names in value.values():
                    _require_names(names, place)
            case "dependencies":
                for names in value.values():
                    if isinstance(names, list):
                        _require_names(names, place)
            case "pattern":
                check_pattern(value, place)
            case "patternProperties":
                for expression in value:
                    check_pattern(expression, place)
            case "format":
                check_format(value, place)
            case "$ref":
                self._target(value, place)
                self._references.append((value, place))
            case _ if keyword in COUNTS:
                check_count(keyword, value, place)
            case _ if keyword in NUMBERS:
                check_number(keyword, value, place)

    def _count_enum(self, value: Any, place: str) -> int:
        if not (isinstance(value, list) and value):
            raise RequestError("enum must be a list with at least one value", param=place)
        return len(value)

    def _target(self, value: Any, place: str) -> Any:
        """The schema that a reference names. Raises `RequestError`."""
        if not (isinstance(value, str) and (value == "#" or value.startswith("#/"))):
            raise RequestError("$ref must be a path within the schema, such as #/$defs/name", param=place)

        at = self.root
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
        return at


def _require_names(value: Any, place: str) -> None:
    if not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
        raise RequestError(f"{place.rpartition('.')[2]} must be a list of names", param=place)
    limit("properties", len(value), place)


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
