"""Messages of a request as plain values; in which form a template takes them is for the template to say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from histrio.errors import RequestError
from histrio_api.schemas.messages import ChatMessage, ContentPart, ToolCall
from histrio_api.text.template_forms import Message

__all__ = ["to_template_messages"]

KNOWN_PARTS = frozenset({"audio", "file", "image", "image_url", "input_audio", "input_image", "refusal", "video_url"})


def to_template_messages(messages: Sequence[ChatMessage], *, knows_developer: bool) -> list[Message]:
    """Convert checked messages; raises `RequestError` with the path of what cannot be converted."""
    return [_convert(message, f"messages[{at}]", knows_developer) for at, message in enumerate(messages)]


def _convert(message: ChatMessage, path: str, knows_developer: bool) -> Message:
    role = "system" if message.role == "developer" and not knows_developer else message.role
    converted: Message = {"role": role, "content": _content(message, path)}
    for name in ("name", "tool_call_id"):
        if (value := getattr(message, name)) is not None:
            converted[name] = value
    if message.tool_calls:
        converted["tool_calls"] = [_tool_call(call) for call in message.tool_calls]

    reasoning = message.reasoning_content if message.reasoning_content is not None else message.reasoning
    if reasoning is not None:
        # Families read it under different names.
        converted |= {"reasoning_content": reasoning, "reasoning": reasoning, "thinking": reasoning}
    return converted


def _content(message: ChatMessage, path: str) -> str | list[dict[str, str]] | None:
    content = message.content
    if content is None:
        if message.role != "assistant" or not (message.tool_calls or message.refusal):
            raise RequestError(f"{path}.content: the field is required", param=f"{path}.content")
        return message.refusal
    if isinstance(content, str):
        return content

    texts = (_part_text(part, f"{path}.content[{at}]") for at, part in enumerate(content))
    return [{"type": "text", "text": text} for text in texts]


def _part_text(part: ContentPart, path: str) -> str:
    if part.type != "text":
        kind = f"of type {part.type}" if part.type in KNOWN_PARTS else "of this type"
        raise RequestError(f"{path}: content {kind} is not supported; this model takes text only", param=path)
    if part.text is None:
        raise RequestError(f"{path}.text: the field is required", param=f"{path}.text")

    return part.text


def _tool_call(call: ToolCall) -> dict[str, Any]:
    """The arguments as the client gave them; they may be what a model wrote."""
    function = {"name": call.function.name, "arguments": call.function.arguments}
    return {"id": call.id or "", "type": "function", "function": function}
