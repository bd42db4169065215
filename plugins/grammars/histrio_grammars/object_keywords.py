"""Keywords of objects that llguidance does not have, as those that it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from histrio_grammars.bounds import LIMITS
from histrio_grammars.expressions import portable
from histrio_grammars.negation import DESCRIBING
from histrio_grammars.rewriting import Rewriting, Schema, complaint, complaint_about

__all__ = ["OBJECT_STEPS"]

_MAX_WAYS = 16
_NAME_PATTERNS = {
    "uuid": "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$",
    "date": "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])$",
}


def _dependent_required(at: Rewriting) -> None:
    _dependent(
        at, "dependentRequired", {name: {"required": each} for name, each in at.raw["dependentRequired"].items()}
    )


def _dependent_schemas(at: Rewriting) -> None:
    _dependent(at, "dependentSchemas", at.schema["dependentSchemas"])


def _dependencies(at: Rewriting) -> None:
    given = at.schema["dependencies"]
    both = {name: {"required": each} if isinstance(each, list) else each for name, each in given.items()}
    _dependent(at, "dependencies", both)


def _dependent(at: Rewriting, keyword: str, schemas: Schema) -> None:
    """Each name is missing, or its schema holds."""
    if len(schemas) > 4:
        at.drop(keyword)
        return
    at.instead(keyword, *({"anyOf": [{"properties": {name: False}}, each]} for name, each in schemas.items()))


def _property_names(at: Rewriting) -> None:
    """The names, or an expression of them, with the schema that any other property would have."""
    names = at.raw["propertyNames"]
    for _ in range(8):
        if isinstance(names, dict) and isinstance(names.get("$ref"), str):
            names = at.resolve(names["$ref"])
    rest = at.schema.get("additionalProperties", True)
    if not isinstance(names, dict) or at.properties or at.raw.get("patternProperties"):
        at.drop("propertyNames")
        return

    told = {
        name: value for name, value in names.items() if name not in DESCRIBING and (name, value) != ("type", "string")
    }
    listed = told.get("enum", [told["const"]] if "const" in told else None)
    if told.keys() <= {"enum", "const"} and isinstance(listed, list):
        found: Schema = {"properties": {each: rest for each in listed if isinstance(each, str)}}
    elif (pattern := _name_pattern(told)) is not None:
        found = {"patternProperties": {pattern: rest}}
    else:
        at.drop("propertyNames")
        return
    at.schema |= found | {"additionalProperties": False}
    at.instead("propertyNames")


def _name_pattern(told: Schema) -> str | None:
    if told.keys() == {"format"}:
        return _NAME_PATTERNS.get(str(told["format"]))
    if told.keys() == {"pattern"} and isinstance(told["pattern"], str):
        pattern = portable(told["pattern"], dot=".")
        return None if complaint_about(pattern) else pattern
    if told and told.keys() <= {"minLength", "maxLength"} and all(isinstance(each, int) for each in told.values()):
        least, most = told.get("minLength", 0), told.get("maxLength", "")
        return None if least > LIMITS["pattern characters"] else f"^.{{{least},{most}}}$"
    return None


def _pattern_properties(at: Rewriting) -> None:
    """Names that readers do not agree about get their schema where all of them see it, and it is named.

    What cannot be enforced leaves all names free that it is about, with any value.
    """
    given = at.schema["patternProperties"]
    is_closed = at.raw.get("additionalProperties") is False
    if not all(portable(each, dot=".") == each for each in at.raw["patternProperties"]) and not (
        is_closed and len(given) == 1
    ):
        at.left_out.append("patternProperties")
    if any("not supported" in complaint_about(each) for each in given):
        at.drop("patternProperties")
        at.schema.pop("additionalProperties", None)
        return

    if len(given) > 1 and "disjoint" in complaint({"type": "object", "patternProperties": dict.fromkeys(given, True)}):
        at.drop("patternProperties")
        if is_closed:
            at.schema["patternProperties"] = {"|".join(f"(?:{each})" for each in given): True}
        else:
            at.schema.pop("additionalProperties", None)


def _min_properties(at: Rewriting) -> None:
    """A grammar counts a name that comes twice as two properties, a reader of JSON as one."""
    least = at.schema["minProperties"]
    optional = [name for name in at.properties if name not in at.required]
    if least <= len(at.required):
        at.instead("minProperties")
    elif not at.has_free_names and least == 1 and optional and len(optional) <= _MAX_WAYS:
        at.instead("minProperties", {"anyOf": [{"required": [name]} for name in optional]})
    elif not at.has_free_names and least == len(at.properties):
        at.schema["required"] = list(at.properties)
        at.instead("minProperties")
    elif optional:
        at.drop("minProperties")
    elif at.has_free_names and least > len(at.required) + 1:
        at.left_out.append("minProperties")


def _max_properties(at: Rewriting) -> None:
    optional = [name for name in at.properties if name not in at.required]
    if not at.has_free_names and at.schema["maxProperties"] >= len(at.properties):
        at.instead("maxProperties")
    elif optional:
        at.drop("maxProperties")


def _unevaluated_properties(at: Rewriting) -> None:
    """What is neither listed here nor by schemas that hold beside it."""
    names = _evaluated(at.raw, at.resolve, 0)
    value = at.schema["unevaluatedProperties"]
    if "additionalProperties" in at.raw:
        at.instead("unevaluatedProperties")
    elif names is not None and not at.raw.get("patternProperties"):
        at.instead("unevaluatedProperties", {"properties": dict.fromkeys(names, True), "additionalProperties": value})
    else:
        at.drop("unevaluatedProperties")


def _evaluated(schema: Any, resolve: Callable[[str], Any], level: int) -> list[str] | None:
    """Names of properties that are looked at; None where that depends on the value."""
    if not isinstance(schema, dict) or level > 8:
        return None
    if any(each in schema for each in ("anyOf", "oneOf", "if", "dependentSchemas", "dependencies")):
        return None
    if level and any(each in schema for each in ("additionalProperties", "patternProperties", "unevaluatedProperties")):
        return None

    names = list(schema.get("properties", {}))
    inner = [*schema.get("allOf", []), *([resolve(schema["$ref"])] if "$ref" in schema else [])]
    for each in inner:
        found = _evaluated(each, resolve, level + 1)
        if found is None:
            return None
        names += found
    return names


OBJECT_STEPS: dict[str, Callable[[Rewriting], None]] = {
    "propertyNames": _property_names,
    "patternProperties": _pattern_properties,
    "dependencies": _dependencies,
    "dependentRequired": _dependent_required,
    "dependentSchemas": _dependent_schemas,
    "maxProperties": _max_properties,
    "minProperties": _min_properties,
    "unevaluatedProperties": _unevaluated_properties,
}
"""In this order: names of properties come before what counts them."""
