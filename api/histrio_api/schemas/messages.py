"""The messages of a chat, as requests give them."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from msgspec.structs import force_setattr

from histrio_api.schemas.custom_tools import INPUT, CustomCall
from histrio_api.schemas.strict import (
    ARRAY,
    NULL,
    OBJECT,
    STRING,
    OnlyText,
    Schema,
    Strict,
    by_type,
    require_of_type,
)

__all__ = ["ChatMessage", "ContentPart", "FunctionCall", "ToolCall"]


class ContentPart(Strict, frozen=True):
    """One part of a message's content; only text is served, other types are refused by name."""

    rules: ClassVar[Schema] = {"properties": {"text": STRING}, "required": ["type", "text"]}

    type: OnlyText
    text: str | None = None


class FunctionCall(Strict, frozen=True):
    """A call the assistant made earlier."""

    name: str
    arguments: str | dict[str, Any]
    """As the model wrote it, JSON or not."""


_NO_CALL = FunctionCall(name="", arguments="")


class ToolCall(Strict, frozen=True):
    """One tool call in an assistant message. Whatever its type is, it has a function, as the model made it."""

    rules: ClassVar[Schema] = by_type(
        "function", function={"function": OBJECT, "custom": NULL}, custom={"custom": OBJECT}
    )

    function: FunctionCall = _NO_CALL
    id: str | None = ""
    type: Literal["function", "custom"] | None = "function"
    custom: CustomCall | None = None

    def __post_init__(self) -> None:
        """A custom call is one of a function of one text. Raises `ValueError` if what its type asks for is missing."""
        require_of_type(self.type, self.custom, is_function=self.function is not _NO_CALL)
        if self.custom is not None:
            force_setattr(self, "function", FunctionCall(name=self.custom.name, arguments={INPUT: self.custom.input}))


class ChatMessage(Strict, frozen=True):
    """One message of a chat. What clients add to an answer that they send back is left out."""

    rules: ClassVar[Schema] = {
        "anyOf": [
            {"properties": {"content": {"type": ["string", "array"]}}, "required": ["content"]},
            *(
                {"properties": {"role": {"const": "assistant"}, name: schema}, "required": ["role", name]}
                for name, schema in {
                    "tool_calls": ARRAY | {"minItems": 1},
                    "function_call": OBJECT,
                    "refusal": STRING | {"minLength": 1},
                    "reasoning_content": STRING,
                    "reasoning": STRING,
                }.items()
            ),
        ]
    }

    role: str
    """Whatever the model's template takes; `developer` and `function` are read as `system` and `tool` elsewhere."""
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    function_call: FunctionCall | None = None
    """The only call, as it was said before there were `tool_calls`."""
