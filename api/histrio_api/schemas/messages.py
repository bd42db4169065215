"""The messages of a chat, as requests give them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from histrio_api.schemas.strict import Strict

__all__ = ["ChatMessage", "ContentPart", "ToolCall"]


class ContentPart(msgspec.Struct, frozen=True):
    """One part of a message's content; only text is served, other types are refused by name."""

    type: str
    text: str | None = None


class FunctionCall(Strict, frozen=True):
    """A call the assistant made earlier."""

    name: str
    arguments: str | dict[str, Any]
    """As the model wrote it, JSON or not."""
    parsed_arguments: Any = None
    """What the official clients make of the arguments; not looked at."""


class ToolCall(Strict, frozen=True):
    """One tool call in an assistant message."""

    function: FunctionCall
    id: str | None = ""
    type: Literal["function"] | None = "function"
    index: int | None = None
    """Of a call's delta in a stream. The order of calls is that of the list."""
    custom: None = None


class ChatMessage(Strict, frozen=True):
    """One message of a chat. The last ones are what clients send back unchanged: accepted while empty."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    audio: None = None
    function_call: None = None
    parsed: Any = None
    """What the official clients make of the content; not looked at."""
    annotations: Annotated[list[Any], Meta(max_length=0)] | None = None
