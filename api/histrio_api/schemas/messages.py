"""The messages of a chat, as requests give them."""

from __future__ import annotations

from typing import Any, Literal

from histrio_api.schemas.strict import Strict

__all__ = ["ChatMessage", "ContentPart", "FunctionCall", "ToolCall"]


class ContentPart(Strict, frozen=True):
    """One part of a message's content; only text is served, other types are refused by name."""

    type: str
    text: str | None = None


class FunctionCall(Strict, frozen=True):
    """A call the assistant made earlier."""

    name: str
    arguments: str | dict[str, Any]
    """As the model wrote it, JSON or not."""


class ToolCall(Strict, frozen=True):
    """One tool call in an assistant message."""

    function: FunctionCall
    id: str | None = ""
    type: Literal["function"] | None = "function"


class ChatMessage(Strict, frozen=True):
    """One message of a chat. What clients add to an answer that they send back is left out."""

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
