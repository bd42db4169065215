"""A schema while its keywords are said in others: what was written, what is enforced so far, and what is left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec

__all__ = ["Rewriting", "Schema", "both", "complaint", "complaint_about"]

Schema = dict[str, Any]


@dataclass
class Rewriting:
    """Of one schema, whose children have been rewritten."""

    raw: Schema
    """As it came, but for what excludes nothing."""
    schema: Schema
    """The same with children that llguidance understands."""
    resolve: Callable[[str], Any]
    """What a `$ref` names, as it came."""
    is_exact: Callable[[str], bool]
    """Whether the schema of this keyword was kept whole."""
    left_out: list[str] = field(default_factory=list)
    """Keywords that are not enforced."""
    _more: list[Any] = field(default_factory=list)

    def result(self) -> Any:
        """The schema, or false where nothing can follow it."""
        if any(each is False for each in self._more):
            return False
        if not self._more:
            return self.schema
        given = self.schema.get("allOf", [])
        return self.schema | {"allOf": [*given, *self._more]}

    def drop(self, keyword: str) -> None:
        """It is not enforced."""
        self.left_out.append(keyword)
        self.schema.pop(keyword, None)

    def instead(self, keyword: str, *schemas: Any) -> None:
        """These say the same."""
        self.schema.pop(keyword, None)
        self.also(*schemas)

    def also(self, *schemas: Any) -> None:
        """These have to hold, too."""
        self._more += [each for each in schemas if each is not True and each != {}]

    @property
    def has_free_names(self) -> bool:
        """Whether properties may have names that are not listed."""
        return self.schema.get("additionalProperties") is not False or bool(self.schema.get("patternProperties"))

    @property
    def properties(self) -> Schema:
        """The listed ones."""
        found: Schema = self.schema.get("properties", {})
        return found

    @property
    def required(self) -> set[str]:
        """Names."""
        return set(self.schema.get("required", []))


def both(first: Any, second: Any) -> Any:
    if first is False or second is False:
        return False
    told = [each for each in (first, second) if each is not True and each != {}]
    return {"allOf": told} if len(told) > 1 else told[0] if told else True


@lru_cache(1024)
def complaint_about(expression: str) -> str:
    """What llguidance has against an expression of strings; empty if nothing."""
    return complaint({"type": "string", "pattern": expression})


def complaint(schema: Schema) -> str:
    """What llguidance has against a schema."""
    import llguidance

    grammar = llguidance.LLMatcher.grammar_from_json_schema(msgspec.json.encode(schema).decode())
    return llguidance.LLMatcher.validate_grammar(grammar)
