"""The messages of a chat, as requests give them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from histrio_api.schemas.strict import Strict

__all__ = ["ChatMessage", "ContentPart", "ToolCall"]


class ContentPart(msgspec.Struct):
    """One part of a message's content; only text is served, other types are refused by name."""

    type: str
    text: str | None = None


class FunctionCall(Strict):
    """A call the assistant made earlier."""

    name: str
    arguments: str | dict[str, Any]


class ToolCall(Strict):
    """One tool call in an assistant message."""

    function: FunctionCall
    id: str = ""
    type: Literal["function"] = "function"


class ChatMessage(Strict):
    """One message of a chat. The last four are what clients send back unchanged: accepted while empty."""

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
    annotations: Annotated[list[Any], Meta(max_length=0)] | None = None
