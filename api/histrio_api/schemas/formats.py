"""The form that a request demands of its answer, in each of its spellings."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from histrio_api.schemas.strict import ARRAY, OBJECT, Schema, Strict, by_type

__all__ = ["ResponseFormat", "StructuralTag", "StructuredOutputs"]


class SchemaFormat(Strict, frozen=True):
    """The named schema of a `json_schema` format."""

    rules: ClassVar[Schema] = {"properties": {"schema": {"type": ["object", "boolean"]}}, "required": ["schema"]}

    name: str = ""
    description: str | None = None
    schema: dict[str, Any] | bool | None = None
    strict: bool | None = None
    """True: a keyword that cannot be enforced is refused instead of being named."""


class Structure(Strict, frozen=True):
    """A place where a text has a form: JSON after a schema, between two fixed texts."""

    begin: str
    """Starts with one of the triggers."""
    schema: dict[str, Any] | bool
    end: str


class ResponseFormat(Strict, frozen=True):
    """`response_format`: any text, any JSON object, JSON after a schema, or text with structures in it."""

    rules: ClassVar[Schema] = by_type(
        text={},
        json_object={},
        json_schema={"json_schema": OBJECT},
        structural_tag={"structures": ARRAY, "triggers": ARRAY},
    )

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: SchemaFormat | None = None
    schema: dict[str, Any] | bool | None = None
    """Of `json_object`, as some servers have it."""
    structures: list[Structure] | None = None
    """Of `structural_tag`, like `triggers`."""
    triggers: list[str] | None = None


class StructuralTag(Strict, frozen=True):
    """Text in which each trigger begins one of the structures."""

    structures: list[Structure]
    triggers: list[str]
    type: Literal["structural_tag"] = "structural_tag"


class StructuredOutputs(Strict, frozen=True):
    """`structured_outputs`: one of these."""

    json: dict[str, Any] | bool | str | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: StructuralTag | str | None = None
