"""Whether no value follows two of the branches of `oneOf`: then it means what `anyOf` means."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import msgspec

__all__ = ["excluding_branches"]

Resolve = Callable[[str], Any]
_MAX_LEVELS = 8
_ALL_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})


def excluding_branches(branches: list[Any], resolve: Resolve) -> list[list[str]] | None:
    """Names that each branch has to require so that the branches exclude each other; None if nothing shows that."""
    views = [_View(each, resolve) for each in branches]
    if all(_exclude(*pair) for pair in combinations(views, 2)):
        return [[] for _ in branches]

    # A property that tells the branches apart, and that generators leave optional because it has a default.
    for name in views[0].values if all(each.types == {"object"} for each in views) else ():
        if all(name in each.values for each in views):
            told = [each.values[name] for each in views]
            if all(first.isdisjoint(second) for first, second in combinations(told, 2)):
                return [[name] for _ in branches]
    return None


class _View:
    """What is sure of all values of a schema. Where a keyword is not understood, less is sure."""

    def __init__(self, schema: Any, resolve: Resolve) -> None:
        self.types = _ALL_TYPES
        self.listed: frozenset[bytes] | None = None
        """The only values, if there is a list of them."""
        self.required: frozenset[str] = frozenset()
        self.values: dict[str, frozenset[bytes]] = {}
        """Property → the only values that it has where it is there."""
        self.closed_to: frozenset[str] | None = None
        """The only names that properties have."""
        for part in _parts(schema, resolve, 0):
            self._take(part, resolve)

    def _take(self, part: dict[str, Any], resolve: Resolve) -> None:
        if "type" in part:
            named = part["type"] if isinstance(part["type"], list) else [part["type"]]
            names = frozenset(each for each in named if isinstance(each, str))
            self.types &= names | ({"integer"} if "number" in names else frozenset())
        if (listed := _listed(part)) is not None:
            self.listed = listed if self.listed is None else self.listed & listed
            self.types &= _types_of(part.get("enum", [part.get("const")]))
        required = part.get("required")
        if isinstance(required, list):
            self.required |= frozenset(each for each in required if isinstance(each, str))
        properties = part.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        for name, each in properties.items():
            for inner in _parts(each, resolve, 0):
                if (listed := _listed(inner)) is not None:
                    self.values[name] = listed & self.values.get(name, listed)
        if part.get("additionalProperties") is False and not part.get("patternProperties"):
            closed = frozenset(properties)
            self.closed_to = closed if self.closed_to is None else self.closed_to & closed


def _exclude(first: _View, second: _View) -> bool:
    if first.listed is not None and second.listed is not None:
        return first.listed.isdisjoint(second.listed)
    types = first.types & second.types
    if not types:
        return True
    if types != {"object"}:
        return False

    both = first.required & second.required
    if any(
        name in first.values and name in second.values and first.values[name].isdisjoint(second.values[name])
        for name in both
    ):
        return True
    return any(
        closed.closed_to is not None and not other.required <= closed.closed_to
        for closed, other in ((first, second), (second, first))
    )


def _listed(schema: dict[str, Any]) -> frozenset[bytes] | None:
    listed = schema.get("enum", [schema["const"]] if "const" in schema else None)
    # 1 and 1.0 are one value: what has numbers is not told apart by how they are written.
    return frozenset(map(_key, listed)) if isinstance(listed, list) else None


def _types_of(values: list[Any]) -> frozenset[str]:
    """Of a number both types, since each could be the other."""
    found: set[str] = set()
    for value in values:
        match value:
            case bool():
                found.add("boolean")
            case str():
                found.add("string")
            case None:
                found.add("null")
            case int() | float():
                found |= {"number", "integer"}
            case list():
                found.add("array")
            case _:
                found.add("object")
    return frozenset(found)


def _key(value: Any) -> bytes:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return msgspec.json.encode(value, order="sorted")


def _parts(schema: Any, resolve: Resolve, level: int) -> Iterator[dict[str, Any]]:
    """The schema, and those that hold of the same value."""
    if not isinstance(schema, dict) or level > _MAX_LEVELS:
        return
    yield schema
    if isinstance(schema.get("$ref"), str):
        yield from _parts(resolve(schema["$ref"]), resolve, level + 1)
    inner = schema.get("allOf")
    for each in inner if isinstance(inner, list) else []:
        yield from _parts(each, resolve, level + 1)
