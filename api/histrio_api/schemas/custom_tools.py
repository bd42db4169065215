"""Custom tools, as OpenAI has them: the model gives one a text, which may have to follow a grammar."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from histrio_api.schemas.strict import NULL, OBJECT, Schema, Strict, by_type

__all__ = ["INPUT", "CustomCall", "CustomDefinition", "CustomFormat", "CustomGrammar"]

INPUT = "input"
"""The one parameter of the function as which a custom tool is offered to the model."""
_ESCAPE = re.compile(r"\\.", re.DOTALL)
_CLASS = re.compile(r"\[\^?\]?[^\]]*\]")
"""Of characters, where none is escaped."""


class CustomGrammar(Strict, frozen=True):
    """What the text must look like."""

    rules: ClassVar[Schema] = {"properties": {"syntax": {"const": "regex"}}}

    definition: str
    syntax: Literal["regex", "lark"]

    def __post_init__(self) -> None:
        """Raises `ValueError` for a grammar that cannot be enforced within a call."""
        if self.syntax == "lark":
            raise ValueError("a Lark grammar cannot be enforced within a call; give a regex, or the type text")
        if not _is_closed(self.definition):
            raise ValueError("a parenthesis of the expression is closed that was not opened, or is not closed")


def _is_closed(expression: str) -> bool:
    """Whether its parentheses are pairs, so that another pair may stand around all of it."""
    depth = 0
    for char in _CLASS.sub("", _ESCAPE.sub("x", expression)):
        depth += (char == "(") - (char == ")")
        if depth < 0:
            return False
    return depth == 0


class CustomFormat(Strict, frozen=True):
    """`text` is free."""

    rules: ClassVar[Schema] = by_type("text", text={"grammar": NULL}, grammar={"grammar": OBJECT})

    type: Literal["text", "grammar"] = "text"
    grammar: CustomGrammar | None = None

    def __post_init__(self) -> None:
        """Raises `ValueError` unless there is a grammar exactly where the type says so."""
        if (self.grammar is not None) != (self.type == "grammar"):
            raise ValueError("the type grammar has the field grammar, and the type text has not")


class CustomDefinition(Strict, frozen=True):
    """A tool that takes a text."""

    name: str
    description: str | None = None
    format: CustomFormat = CustomFormat()

    @property
    def has_form(self) -> bool:
        """Whether its text must follow a grammar."""
        return self.format.grammar is not None

    @property
    def parameters(self) -> dict[str, Any]:
        """Of the function as which it is offered."""
        text = {"type": "string"}
        if self.format.grammar is not None:
            text["pattern"] = f"^(?:{self.format.grammar.definition})$"
        return {"type": "object", "properties": {INPUT: text}, "required": [INPUT], "additionalProperties": False}


class CustomCall(Strict, frozen=True):
    """A call of a custom tool that the assistant made earlier."""

    name: str
    input: str
