"""Arguments that stand as elements within elements, as a grammar: parameters of parameters, as deep as the schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from histrio.contracts.grammar import TagParameter
from histrio.errors import RequestError
from histrio_api.text.calls.parameter_grammar import alone, properties_of, texts_of, unenforced_of_texts, unknown_of
from histrio_api.text.calls.typed_values import branch_of, item_schema, types_of

__all__ = ["ITEM", "MOST_LEVELS", "nested_parameters"]

ITEM = "item"
"""The name of every element of a list."""
MOST_LEVELS = 16
_OF_LISTS = frozenset({"type", "items", "anyOf", "oneOf", "title", "description", "default", "examples", "$ref"})


def nested_parameters(schema: Mapping[str, Any], prefix: str) -> tuple[list[TagParameter], list[str]]:
    """In the order of the properties, and places in the schema of what calls of this form cannot be held to.

    Objects have the properties that their schemas name, and no others. Raises `RequestError` for what no call can
    satisfy.
    """
    nesting = _Nesting(schema, prefix)
    return nesting.object(schema, "", 0), nesting.unenforced


class _Nesting:
    def __init__(self, root: Mapping[str, Any], prefix: str) -> None:
        self._root = root
        self._prefix = prefix
        self.unenforced: list[str] = []

    def object(self, schema: Mapping[str, Any], place: str, level: int) -> list[TagParameter]:
        if level > MOST_LEVELS:
            text = (
                f"objects and lists within each other, more than {MOST_LEVELS}, cannot be called in this model's form"
            )
            raise RequestError(text, param=place.rstrip("."))
        properties, required = properties_of(schema)
        self.unenforced += [f"{place}{keyword}" for keyword in unknown_of(schema)]
        return [
            self._element(key, each, f"{place}properties.{key}", level, is_required=key in required)
            for key, each in properties.items()
        ]

    def _element(
        self, key: str, schema: Any, place: str, level: int, *, is_required: bool = False, is_repeated: bool = False
    ) -> TagParameter:
        def parameter(**value: Any) -> TagParameter:
            begin, end = f"{self._prefix}<{key}>", f"{self._prefix}</{key}>"
            return TagParameter(begin, end, is_required=is_required, is_repeated=is_repeated, **value)

        types = types_of(schema, self._root) - {"null"}
        if types == {"object"}:
            inner = branch_of(schema, self._root, "object")
            return parameter(parameters=self.object(inner or {}, f"{place}.", level + 1))
        if types == {"array"}:
            inner = branch_of(schema, self._root, "array") or {}
            self.unenforced += [f"{place}.{keyword}" for keyword in inner if keyword not in _OF_LISTS]
            item = self._element(ITEM, item_schema(schema, self._root), f"{place}.items", level + 1, is_repeated=True)
            return parameter(parameters=[item])
        if not types & {"string", "array", "object"}:
            return parameter(schema=alone(schema, self._root))
        if texts := texts_of(schema):
            return parameter(texts=texts)
        self.unenforced += [f"{place}.{keyword}" for keyword in unenforced_of_texts(schema, types)]
        return parameter(stop=self._prefix)
