"""Schemas that take exactly what another one does not, where a grammar can be made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

__all__ = ["DESCRIBING", "negated", "without_texts"]

DESCRIBING = frozenset(
    {"$comment", "$id", "$schema", "default", "deprecated", "description", "examples", "nullable", "readOnly", "title"}
    | {"writeOnly"}
)
"""Keywords that restrict nothing, and that say nothing about what is meant."""

_TYPES = ("array", "boolean", "null", "number", "object", "string")
_OPPOSITES = {
    "minimum": "exclusiveMaximum",
    "maximum": "exclusiveMinimum",
    "exclusiveMinimum": "maximum",
    "exclusiveMaximum": "minimum",
}
_MAX_TEXTS = 64
"""Texts that a pattern excludes; it grows with all their characters."""
_MAX_LEVELS = 8
_MOST = 10**18
"""Numbers beyond it have no bounds in a grammar."""


def negated(schema: Any, resolve: Callable[[str], Any], level: int = 0) -> Any:
    """A schema of all that does not follow this one, None where there is none; `resolve` finds what `$ref` names."""
    if isinstance(schema, bool):
        return not schema
    if not isinstance(schema, dict) or level > _MAX_LEVELS:
        return None

    told = {keyword: value for keyword, value in schema.items() if keyword not in DESCRIBING}
    keywords = told.keys()
    if not keywords:
        return False
    if keywords == {"$ref"} and isinstance(told["$ref"], str):
        return negated(resolve(told["$ref"]), resolve, level + 1)
    if keywords == {"type"}:
        return _other_types(told["type"])
    if keywords <= {"type", "const", "enum"}:
        return _other_values(told)
    if keywords == {"anyOf"} and isinstance(told["anyOf"], list):
        return _all(negated(each, resolve, level + 1) for each in told["anyOf"])
    if keywords <= {"type", "properties", "required"} and told.get("type", "object") == "object":
        return _other_objects(told, resolve, level)
    if len(keywords - {"type"}) == 1 and told.get("type") in (None, "number", "integer"):
        return _other_numbers(told)
    return None


def without_texts(texts: Iterable[str]) -> str | None:
    """An expression of all texts but these, by the letters that they begin with; None if there are too many."""
    found = set(texts)
    if len(found) > _MAX_TEXTS or sum(map(len, found)) > _MAX_TEXTS * 16:
        return None
    return f"^{_beside(found)}$"


def _beside(texts: set[str]) -> str:
    """Texts that are none of these: empty, or another first letter, or the same and then another rest."""
    by_first: dict[str, set[str]] = {}
    for text in texts - {""}:
        by_first.setdefault(text[0], set()).add(text[1:])
    if not by_first:
        return "(?:[\\s\\S]+)" if texts else "(?:[\\s\\S]*)"

    other = "".join(_code(each) for each in sorted(by_first))
    ways = [f"[^{other}][\\s\\S]*", *(f"{_code(first)}{_beside(rests)}" for first, rests in sorted(by_first.items()))]
    return f"(?:{'|'.join(ways)}){'' if '' in texts else '?'}"


def _code(char: str) -> str:
    return f"\\x{{{ord(char):x}}}"


def _all(schemas: Iterable[Any]) -> Any:
    found = list(schemas)
    return None if any(each is None for each in found) else {"allOf": found}


def _other_types(given: Any) -> Any:
    names = set(given) if isinstance(given, list) else {given}
    if "integer" in names and "number" not in names:
        return None  # what is left of the numbers has no name
    rest = [name for name in _TYPES if name not in names]
    return {"type": rest} if rest else False


def _other_values(told: dict[str, Any]) -> Any:
    """Of a list of plain values: other texts, other numbers, the other truth value, and other types."""
    listed = told.get("enum", [told["const"]] if "const" in told else None)
    if not isinstance(listed, list) or ("enum" in told and "const" in told):
        return None
    if "type" in told and not all(_is_of(each, told["type"]) for each in listed):
        return None

    texts = [each for each in listed if isinstance(each, str)]
    numbers = [each for each in listed if isinstance(each, int | float) and not isinstance(each, bool)]
    truths = {each for each in listed if isinstance(each, bool)}
    if (
        len(numbers) > 16
        or any(abs(each) >= _MOST for each in numbers)
        or any(isinstance(each, dict | list) for each in listed)
    ):
        return None
    types: list[str] = ["array", "object"]
    found: list[dict[str, Any]] = []
    if None not in listed:
        types.append("null")
    if len(truths) < 2:
        found.append({"enum": [each for each in (False, True) if each not in truths]})
    pattern = without_texts(texts)
    if pattern is None:
        return None
    found.append({"type": "string", "pattern": pattern} if texts else {"type": "string"})
    found += _beside_numbers(sorted(numbers))
    return {"anyOf": [{"type": types}, *found]}


def _beside_numbers(numbers: list[int | float]) -> list[dict[str, Any]]:
    if not numbers:
        return [{"type": "number"}]
    bounds: list[dict[str, Any]] = [{"exclusiveMaximum": numbers[0]}]
    bounds += [{"exclusiveMinimum": low, "exclusiveMaximum": high} for low, high in pairwise(numbers)]
    return [{"type": "number", **each} for each in (*bounds, {"exclusiveMinimum": numbers[-1]})]


def _is_of(value: Any, given: Any) -> bool:
    names = given if isinstance(given, list) else [given]
    match value:
        case bool():
            return "boolean" in names
        case str():
            return "string" in names
        case None:
            return "null" in names
        case int() | float():
            return "number" in names or ("integer" in names and value == int(value))
    return False


def _other_objects(told: dict[str, Any], resolve: Callable[[str], Any], level: int) -> Any:
    """An object without a required name, or with a property that does not follow its schema."""
    required, properties = told.get("required", []), told.get("properties", {})
    if not (isinstance(required, list) and isinstance(properties, dict)):
        return None
    ways: list[Any] = [{"type": "object", "properties": {name: False}} for name in required]
    for name, schema in properties.items():
        other = negated(schema, resolve, level + 1)
        if other is None:
            return None
        if other is not False:
            ways.append({"type": "object", "properties": {name: other}, "required": [name]})
    if "type" in told:
        ways.append({"type": [name for name in _TYPES if name != "object"]})
    return {"anyOf": ways} if ways else False


def _other_numbers(told: dict[str, Any]) -> Any:
    ((keyword, bound),) = ((name, value) for name, value in told.items() if name != "type")
    if keyword not in _OPPOSITES or not isinstance(bound, int | float) or isinstance(bound, bool):
        return None
    if abs(bound) >= _MOST:
        return None
    other = {"type": "number", _OPPOSITES[keyword]: bound}
    if "type" not in told:
        return other
    if told["type"] == "integer":
        return None
    return {"anyOf": [other, {"type": [name for name in _TYPES if name != "number"]}]}
