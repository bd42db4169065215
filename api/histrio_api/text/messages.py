"""Messages of a request as plain values; in which form a template takes them is for the template to say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from histrio.errors import RequestError
from histrio_api.schemas.messages import ChatMessage, ContentPart, FunctionCall
from histrio_api.text.template_forms import Message

__all__ = ["to_template_messages"]

KNOWN_PARTS = frozenset({"audio", "file", "image", "image_url", "input_audio", "input_image", "refusal", "video_url"})


_READ_AS = {"developer": "system", "function": "tool"}
"""Roles that OpenAI has and templates need not have."""


def to_template_messages(messages: Sequence[ChatMessage], takes_role: Callable[[str], bool]) -> list[Message]:
    """Convert checked messages, for a template that takes some roles.

    Raises `RequestError` with the path of what cannot be converted.
    """
    return [_convert(message, f"messages[{at}]", takes_role) for at, message in enumerate(messages)]


def _convert(message: ChatMessage, path: str, takes_role: Callable[[str], bool]) -> Message:
    converted: Message = {"role": _role(message.role, path, takes_role), "content": _content(message, path)}
    for name in ("name", "tool_call_id"):
        if (value := getattr(message, name)) is not None:
            converted[name] = value
    if message.tool_calls:
        converted["tool_calls"] = [_tool_call(call.function, call.id or "") for call in message.tool_calls]
    elif message.function_call is not None:
        converted["tool_calls"] = [_tool_call(message.function_call)]

    reasoning = message.reasoning_content if message.reasoning_content is not None else message.reasoning
    if reasoning is not None:
        # Families read it under different names.
        converted |= {"reasoning_content": reasoning, "reasoning": reasoning, "thinking": reasoning}
    return converted


def _role(role: str, path: str, takes_role: Callable[[str], bool]) -> str:
    if takes_role(role):
        return role
    if role not in _READ_AS:
        raise RequestError(f"{path}.role: the model's chat template has no such role", param=f"{path}.role")
    return _READ_AS[role]


def _content(message: ChatMessage, path: str) -> str | list[dict[str, str]] | None:
    content = message.content
    if content is None:
        is_calling = bool(message.tool_calls) or message.function_call is not None
        has_reasoned = message.reasoning_content is not None or message.reasoning is not None
        if message.role != "assistant" or not (is_calling or message.refusal or has_reasoned):
            raise RequestError(f"{path}.content: the field is required", param=f"{path}.content")
        return message.refusal if is_calling or message.refusal else ""
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


def _tool_call(call: FunctionCall, call_id: str = "") -> dict[str, Any]:
    """The arguments as the client gave them; they may be what a model wrote."""
    return {"id": call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
