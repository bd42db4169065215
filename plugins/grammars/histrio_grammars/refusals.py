"""From a compiler's complaint to a refusal in our words, because its own words repeat the client's text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import llguidance
import msgspec

from histrio.errors import RequestError
from histrio.messages import GrammarSpec
from histrio_grammars.bodies import within
from histrio_grammars.places import Path, show, subschemas
from histrio_grammars.schema import decode_schema
from histrio_grammars.tags import decode_tags

__all__ = ["refusal"]

_POSITION = re.compile(r"^(?:at )?(\d+)\((\d+)\)")
_CONDITIONS = (
    ("min/maxProperties", ("minProperties", "maxProperties"), "where every listed property is required"),
    ("patternProperty", ("patternProperties",), "where the patterns exclude each other"),
    ("Failed to generate regex", ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), "for usual numbers"),
)
"""How a complaint begins, the keywords it is about, and where those are enforced."""
_TOO_COMPLEX = ("too large", "too complex", "fuel", "panic", "Unable to determine", "too big", "limit")
"""Parts of complaints about size."""


def refusal(spec: GrammarSpec, complaint: str) -> RequestError:
    """The error to raise for a grammar that did not compile."""
    if spec.kind == "json_schema":
        return _of_schema(decode_schema(spec.text), complaint)
    if spec.kind == "structural_tag" and (error := _of_structures(spec.text)) is not None:
        return error
    if any(word in complaint for word in _TOO_COMPLEX):
        return RequestError("the grammar is too complex")
    if spec.kind == "regex":
        return RequestError("the regular expression is malformed, or looks around itself, which cannot be enforced")

    position = _POSITION.match(complaint) if spec.kind == "lark" else None
    where = f" in line {position[1]}, column {position[2]}" if position else ""
    return RequestError(f"the grammar has a mistake{where}")


def _of_schema(schema: dict[str, Any], complaint: str) -> RequestError:
    if complaint.startswith("Unsatisfiable"):
        return RequestError("nothing can satisfy this schema")

    for words, keywords, condition in _CONDITIONS:
        if complaint.startswith(words):
            keyword, place = _culprit(schema, words, keywords)
            text = f"the keyword {keyword} can be enforced only {condition}"
            return RequestError(text, param=place, code="unsupported_keyword")
    for path, expression in _expressions(schema):
        if _complaint({"type": "string", "pattern": expression}):
            text = f"the keyword {path[-1]} has an expression that is malformed or cannot be enforced"
            return RequestError(text, param=show(path), code="unsupported_keyword")
    if any(word in complaint for word in _TOO_COMPLEX):
        return RequestError("the schema is too complex")
    return RequestError("the schema cannot be enforced")


def _of_structures(text: str) -> RequestError | None:
    """The first schema that is refused by itself."""
    for at, structure in enumerate(decode_tags(text).structures):
        schemas: dict[str, Any] = {"schema": structure.schema}
        if structure.parameters is not None:
            schemas = {f"parameters[{nth}].schema": each.schema for nth, each in enumerate(structure.parameters)}
        for place, schema in schemas.items():
            if isinstance(schema, dict) and (complaint := _complaint(schema)):
                return within(f"structures[{at}].{place}", _of_schema(schema, complaint))
    return None


def _culprit(schema: dict[str, Any], words: str, keywords: tuple[str, ...]) -> tuple[str, str | None]:
    """The keyword at fault and its place, in the innermost schema that is refused for the same reason by itself."""
    shared = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    found = [(path, keyword, inner) for path, inner in subschemas(schema) for keyword in keywords if keyword in inner]
    guilty = [each for each in found if _complaint(shared | each[2]).startswith(words)] or found
    return (guilty[-1][1], show((*guilty[-1][0], guilty[-1][1]))) if guilty else (keywords[0], None)


def _expressions(schema: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    for path, inner in subschemas(schema):
        if "pattern" in inner:
            yield (*path, "pattern"), inner["pattern"]
        for expression in inner.get("patternProperties", {}):
            yield (*path, "patternProperties"), expression


def _complaint(schema: dict[str, Any]) -> str:
    grammar = llguidance.LLMatcher.grammar_from_json_schema(msgspec.json.encode(schema).decode())
    return llguidance.LLMatcher.validate_grammar(grammar)
