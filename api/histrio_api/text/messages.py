"""Messages of a request as chat templates expect them: plain values, one string of content, arguments as objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from histrio.errors import RequestError
from histrio_api.schemas.messages import ChatMessage, ContentPart, ToolCall
from histrio_api.text.template import Message

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
        calls = enumerate(message.tool_calls)
        converted["tool_calls"] = [_tool_call(call, f"{path}.tool_calls[{at}]") for at, call in calls]

    reasoning = message.reasoning_content if message.reasoning_content is not None else message.reasoning
    if reasoning is not None:
        # Families read it under different names.
        converted |= {"reasoning_content": reasoning, "reasoning": reasoning, "thinking": reasoning}
    return converted


def _content(message: ChatMessage, path: str) -> str:
    content = message.content
    if content is None:
        if message.role != "assistant" or not (message.tool_calls or message.refusal):
            raise RequestError(f"{path}.content: the field is required", param=f"{path}.content")
        return message.refusal or ""
    if isinstance(content, str):
        return content

    return "\n".join(_part_text(part, f"{path}.content[{at}]") for at, part in enumerate(content))


def _part_text(part: ContentPart, path: str) -> str:
    if part.type != "text":
        kind = f"of type {part.type}" if part.type in KNOWN_PARTS else "of this type"
        raise RequestError(f"{path}: content {kind} is not supported; this model takes text only", param=path)
    if part.text is None:
        raise RequestError(f"{path}.text: the field is required", param=f"{path}.text")

    return part.text


def _tool_call(call: ToolCall, path: str) -> dict[str, Any]:
    arguments = call.function.arguments
    if isinstance(arguments, str):
        arguments = _parse_arguments(arguments, f"{path}.function.arguments")
    return {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}


def _parse_arguments(text: str, path: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, RecursionError) as error:
        raise RequestError(f"{path}: not valid JSON", param=path) from error
    if not isinstance(value, dict):
        raise RequestError(f"{path}: must be a JSON object", param=path)

    return value
