"""A request in Anthropic's form as the chat that it means: what follows knows chats alone.

A turn may become several messages, because a chat has each result of a tool in a message of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

from histrio.errors import RequestError
from histrio_api.request.absent import require_absent
from histrio_api.request.as_chat import as_chat
from histrio_api.request.received import Received
from histrio_api.schemas.anthropic import Block, CountTokensRequest, InputMessage, OfferedTool, ResultBlock, ToolChoice
from histrio_api.schemas.anthropic import Thinking as InputThinking
from histrio_api.schemas.chat import ChatRequest, Thinking
from histrio_api.schemas.generation import StreamOptions
from histrio_api.schemas.messages import ChatMessage, ContentPart, FunctionCall, ToolCall
from histrio_api.schemas.tools import FunctionDefinition, NamedTool, ToolDefinition, ToolName

__all__ = ["NOT_OF_MESSAGES", "to_chat"]

_KINDS = {
    "user": ("text", "tool_result"),
    "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
    "system": ("text",),
}
"""Types of blocks that are served, by role."""
_SHOWN_KINDS = frozenset(
    {"audio", "container_upload", "document", "image", "search_result", "server_tool_use", "tool_reference", "video"}
    | {"text", "thinking", "tool_result", "tool_use"}
)
"""Types that a refusal may repeat."""
NOT_OF_MESSAGES: Mapping[str, object] = {"n": 1, "stop": [], "stream_options": StreamOptions()}
"""What chats have, and this form in another way or not at all; and what it is where it is not given."""

_OURS = "toolu_"
"""Ids of calls have it in this form only; some templates take no other than their own."""

_Texts = Sequence[Block | ResultBlock]


def to_chat(received: Received[CountTokensRequest]) -> Received[ChatRequest]:
    """The same request as a chat. Raises `RequestError`."""
    request = received.request
    require_absent(request, NOT_OF_MESSAGES, "/v1/messages")
    messages = [*_system(request.system), *_messages(request.messages)]
    continues = bool(messages) and messages[-1].role == "assistant"
    given = {
        "stop": request.stop_sequences,
        "response_format": _response_format(request),
        "messages": messages,
        "tools": [_tool(tool, f"tools[{at}]") for at, tool in enumerate(request.tools)],
        "tool_choice": _tool_choice(request.tool_choice),
        "parallel_tool_calls": not request.tool_choice.disable_parallel_tool_use,
        "thinking": None if request.thinking is None else _thinking(request.thinking),
        "add_generation_prompt": not continues,
        "continue_final_message": continues,
    }
    return as_chat(received, given)


def _thinking(given: InputThinking) -> Thinking:
    return Thinking(type="disabled" if given.type == "disabled" else "enabled", budget_tokens=given.budget_tokens)


def _system(given: str | list[ResultBlock]) -> Iterator[ChatMessage]:
    if given:
        yield ChatMessage(role="system", content=given if isinstance(given, str) else _parts(given, "system"))


def _messages(turns: Sequence[InputMessage]) -> Iterator[ChatMessage]:
    for at, turn in enumerate(turns):
        path = f"messages[{at}].content"
        if isinstance(turn.content, str):
            yield ChatMessage(role=turn.role, content=turn.content)
            continue
        for nth, block in enumerate(turn.content):
            if block.type not in _KINDS[turn.role]:
                raise _refusal(f"{path}[{nth}]", block.type)
        if turn.role == "assistant":
            yield _assistant(turn.content, path)
        else:
            yield from _asked(turn.role, turn.content, path)


def _asked(role: Literal["user", "system"], blocks: Sequence[Block], path: str) -> Iterator[ChatMessage]:
    """Results of tools, and what is said before, between and behind them, in their order."""
    if not blocks:
        yield ChatMessage(role=role, content="")
    for is_result, run in groupby(enumerate(blocks), lambda each: each[1].type == "tool_result"):
        if is_result:
            yield from (_result(block, f"{path}[{nth}]") for nth, block in run)
        else:
            yield ChatMessage(role=role, content=[_part(block, f"{path}[{nth}]") for nth, block in run])


def _result(block: Block, path: str) -> ChatMessage:
    content = block.content or ""
    return ChatMessage(
        role="tool",
        content=content if isinstance(content, str) else _parts(content, f"{path}.content"),
        tool_call_id=_required(block.tool_use_id, f"{path}.tool_use_id").removeprefix(_OURS),
    )


def _assistant(blocks: Sequence[Block], path: str) -> ChatMessage:
    numbered = [(block, f"{path}[{nth}]") for nth, block in enumerate(blocks)]
    calls = [_call(*each) for each in numbered if each[0].type == "tool_use"]
    reasoning = [_required(block.thinking, f"{at}.thinking") for block, at in numbered if block.type == "thinking"]
    texts = [_part(*each) for each in numbered if each[0].type == "text"]
    return ChatMessage(
        role="assistant",
        content=texts or (None if calls else ""),
        tool_calls=calls or None,
        reasoning_content="\n".join(reasoning) if reasoning else None,
    )


def _call(block: Block, path: str) -> ToolCall:
    name = _required(block.name, f"{path}.name")
    return ToolCall(
        id=_required(block.id, f"{path}.id").removeprefix(_OURS),
        function=FunctionCall(name=name, arguments=block.input or {}),
    )


def _parts(blocks: _Texts, path: str) -> list[ContentPart]:
    return [_part(block, f"{path}[{nth}]") for nth, block in enumerate(blocks)]


def _part(block: Block | ResultBlock, path: str) -> ContentPart:
    if block.type != "text":
        raise _refusal(path, block.type)
    return ContentPart(type="text", text=_required(block.text, f"{path}.text"))


def _required(value: str | None, path: str) -> str:
    if value is None:
        raise RequestError(f"{path}: the field is required", param=path)
    return value


def _refusal(path: str, kind: str) -> RequestError:
    shown = f"of type {kind}" if kind in _SHOWN_KINDS else "of this type"
    return RequestError(f"{path}: a block {shown} is not supported here; this model takes text only", param=path)


def _tool(tool: OfferedTool, path: str) -> ToolDefinition:
    if tool.type != "custom":
        text = f"{path}.type: only tools of type custom are supported, which the client runs itself"
        raise RequestError(text, param=f"{path}.type", code="unsupported_parameter")
    if tool.input_schema is None:
        raise RequestError(f"{path}.input_schema: the field is required", param=f"{path}.input_schema")

    function = FunctionDefinition(
        name=tool.name, description=tool.description, parameters=tool.input_schema, strict=tool.strict
    )
    return ToolDefinition(function=function)


def _tool_choice(choice: ToolChoice) -> Literal["none", "auto", "required"] | NamedTool:
    match choice.type:
        case "any":
            return "required"
        case "tool":
            return NamedTool(function=ToolName(name=_required(choice.name, "tool_choice.name")))
        case kind:
            return kind


def _response_format(request: CountTokensRequest) -> dict[str, Any] | None:
    wanted = request.output_config.format
    if wanted is None:
        return request.response_format
    if request.response_format is not None:
        raise RequestError("output_config.format: response_format asks for a form already", param="output_config")
    return {"type": "json_schema", "json_schema": {"schema": wanted.schema}}
