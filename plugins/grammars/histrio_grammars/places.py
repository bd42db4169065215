"""Where schemas stand within a schema, and how their places are shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

__all__ = ["LISTS", "MAPS", "ONES", "Path", "children", "num_levels", "show", "subschemas"]

Path: TypeAlias = tuple[str | int, ...]
"""Keywords, names and positions that lead to a place in a schema."""

ONES = frozenset(
    {"additionalItems", "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then"}
    | {"unevaluatedItems", "unevaluatedProperties"}
)
"""Keywords whose value is a schema."""
LISTS = frozenset({"anyOf", "allOf", "oneOf", "prefixItems"})
"""Keywords whose value is a list of schemas."""
MAPS = frozenset({"$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"})
"""Keywords whose values have names; of `dependencies`, some are lists of names."""


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
    for place, child in children(schema, path):
        yield from subschemas(child, place)


def show(path: Path) -> str:
    """A path such as `properties.tags.items`. A name that is long or no word is shown as its position."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def children(schema: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """The schemas directly within, with their places."""
    if not isinstance(schema, dict):
        return

    for keyword, value in schema.items():
        if keyword in ONES and not isinstance(value, list):
            yield (*path, keyword), value
        elif keyword in LISTS or keyword in ONES:
            for at, child in enumerate(value):
                yield (*path, keyword, at), child
        elif keyword in MAPS:
            for at, (name, child) in enumerate(value.items()):
                if keyword != "dependencies" or not isinstance(child, list):
                    yield (*path, keyword, _shown_name(name, at)), child


def _shown_name(name: str, at: int) -> str | int:
    return name if len(name) <= 40 and name.replace("_", "").replace("-", "").isalnum() and name.isascii() else at
