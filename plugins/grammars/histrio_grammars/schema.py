"""Which JSON schemas are taken: read once, keyword by keyword, before any compiler sees them.

A keyword either is enforced, or only describes, or its value excludes nothing (`uniqueItems: false`) and it is left
out, or it cannot be enforced and its place is told. What is malformed is refused with its place. The rules are those of
draft 2020-12, or of the draft that `$schema` names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from histrio.errors import RequestError
from histrio_grammars.bounds import LIMITS
from histrio_grammars.expressions import portable
from histrio_grammars.places import LISTS, MAPS, ONES, Path, children, num_levels, show
from histrio_grammars.rewrites import rewrite
from histrio_grammars.rewriting import Rewriting
from histrio_grammars.wellformed import COUNTS, NUMBERS, WellFormed

__all__ = ["ENFORCED", "NEVER_ENFORCED", "ReadSchema", "decode_schema", "read_schema"]

NEVER_ENFORCED = frozenset(
    {"$dynamicRef", "$recursiveRef", "contains", "disallow", "divisibleBy", "extends", "maxContains", "minContains"}
    | {"uniqueItems", "x-guidance"}
)
"""Keywords that restrict the answer as far as the client checks it."""
ENFORCED = (ONES | LISTS | MAPS | COUNTS | NUMBERS) - NEVER_ENFORCED | {
    "$ref",
    "const",
    "dependentRequired",
    "enum",
    "format",
    "pattern",
    "required",
    "type",
}
"""Keywords that restrict the answer, each of them where it can be said in a grammar."""
_CONDITIONS = frozenset({"contains", "if", "not", "propertyNames"})
"""Keywords whose schema is not followed by itself: only the keyword as a whole can be enforced."""
_MOVED = "histrio-moved-"
"""Begins the names of schemas that references name by a place where they do not stand any more."""
_MAX_TOLD = 64
"""Places of keywords that are not enforced; what is beyond is not told."""


@dataclass(frozen=True)
class ReadSchema:
    """A schema that can be enforced."""

    schema: dict[str, Any]
    """Without keywords that exclude nothing or cannot be enforced, its expressions made `portable`."""
    unenforced: tuple[str, ...] = ()
    """Places of keywords that only the client can check, each of them once."""


def decode_schema(text: str) -> dict[str, Any]:
    """The schema of `read_schema`."""
    return read_schema(text).schema


def read_schema(text: str) -> ReadSchema:
    """Check it, and say it in the keywords that are enforced. Raises `RequestError` with the place."""
    if len(text.encode()) > LIMITS["bytes"]:
        raise RequestError(f"the schema is longer than {LIMITS['bytes']} bytes")

    try:
        schema = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise RequestError("the schema is not valid JSON") from None
    if num_levels(schema) > LIMITS["depth"]:
        raise RequestError(f"the schema is nested deeper than {LIMITS['depth']} levels")

    reader = _Reader({} if schema is True else schema)
    read = reader.read_all()
    if read is False:
        raise RequestError("nothing can satisfy this schema")
    return ReadSchema(read, tuple(dict.fromkeys(reader.unenforced))[:_MAX_TOLD])


class _Reader:
    """One reading of one schema."""

    def __init__(self, root: Any) -> None:
        self.unenforced: list[str] = []
        self._schema = WellFormed(root)
        self._results: dict[int, Any] = {}
        """Of each schema that was read, by the id of the one that came."""
        self._referring: list[dict[str, Any]] = []

    def read_all(self) -> Any:
        """The whole schema; its references lead to what was read of what they name."""
        read = self._read(self._schema.root, ())
        moved: dict[str, Any] = {}
        for each in self._referring:
            reference = each["$ref"]
            if not _is_kept(reference):
                target = self._schema.raw_target(reference)
                name = f"{_MOVED}{len(moved)}"
                moved[name] = target if isinstance(target, bool) else self._results[id(target)]
                each["$ref"] = f"#/$defs/{name}"
        return read | {"$defs": read.get("$defs", {}) | moved} if moved and isinstance(read, dict) else read

    def _read(self, schema: Any, path: Path) -> Any:
        """The schema in the keywords that are enforced. Changes no input."""
        if isinstance(schema, bool):
            return schema

        kept = self._schema.kept(schema)
        inexact: set[str] = set()
        found: list[Any] = []
        for place, child in children(kept, path):
            keyword, num_before = str(place[len(path)]), len(self.unenforced)
            found.append(self._read(child, place))
            if len(self.unenforced) > num_before:
                inexact.add(keyword)
            if keyword in _CONDITIONS:
                del self.unenforced[num_before:]
        rewriting = Rewriting(kept, _with_children(kept, found), self._schema.target, lambda each: each not in inexact)
        rewrite(rewriting)
        result = self._results[id(schema)] = rewriting.result()
        self.unenforced += [show((*path, keyword)) for keyword in rewriting.left_out]
        if isinstance(result, dict) and "$ref" in result:
            self._referring.append(result)
        return result


def _is_kept(reference: str) -> bool:
    """Whether what it names stands at the same place in what was read."""
    parts = reference.split("/")
    return len(parts) == 1 or (len(parts) == 3 and parts[1] in ("$defs", "definitions"))


def _with_children(schema: dict[str, Any], read: list[Any]) -> dict[str, Any]:
    """`schema` with its direct children, in the order of `children`, and its expressions exchanged."""
    children = iter(read)
    result: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in ONES and not isinstance(value, list):
            result[keyword] = next(children)
        elif keyword in LISTS or keyword in ONES:
            result[keyword] = [next(children) for _ in value]
        elif keyword == "patternProperties":
            result[keyword] = {portable(name, dot="."): next(children) for name in value}
        elif keyword in MAPS:
            result[keyword] = {name: each if isinstance(each, list) else next(children) for name, each in value.items()}
        elif keyword == "pattern":
            result[keyword] = portable(value)
        else:
            result[keyword] = value
    return result
