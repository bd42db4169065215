"""A request of /v1/responses as the chat that it means: what follows knows chats alone.

Several items may become one message, because in a chat reasoning, text and calls of one turn are fields of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from msgspec import UNSET

from histrio.errors import RequestError
from histrio_api.request.as_chat import as_chat
from histrio_api.request.received import Received
from histrio_api.schemas.chat import ChatRequest
from histrio_api.schemas.custom_tools import CustomCall, CustomDefinition, CustomFormat
from histrio_api.schemas.messages import ChatMessage, ContentPart, FunctionCall, ToolCall
from histrio_api.schemas.responses import (
    TEXT_TYPES,
    ChosenTool,
    InputItem,
    InputPart,
    InputTokensRequest,
    OfferedTool,
    TextFormat,
)
from histrio_api.schemas.tools import FunctionDefinition, NamedTool, ToolDefinition, ToolName

__all__ = ["Placed", "to_chat"]

T = TypeVar("T")

_SHOWN_PARTS = frozenset({"input_audio", "input_file", "input_image", "input_video"})
_SHOWN_ITEMS = frozenset(
    {"additional_tools", "apply_patch_call", "apply_patch_call_output", "code_interpreter_call", "compaction"}
    | {"computer_call", "computer_call_output", "file_search_call"}
    | {"image_generation_call", "local_shell_call", "local_shell_call_output", "mcp_approval_request"}
    | {"mcp_approval_response", "mcp_call", "mcp_list_tools", "shell_call", "shell_call_output", "tool_search_call"}
    | {"web_search_call"}
)
_SHOWN_TOOLS = frozenset(
    {"apply_patch", "code_interpreter", "computer", "computer_use_preview", "file_search", "image_generation"}
    | {"local_shell", "mcp", "namespace", "shell", "tool_search", "web_search", "web_search_preview"}
)
"""Types that a refusal may repeat."""

Placed = tuple[InputItem, str]
"""An item, and where it stands in the request."""


def to_chat(received: Received[InputTokensRequest], items: Iterable[Placed], **more: Any) -> Received[ChatRequest]:
    """The same request as a chat about these items; `more` are fields of the chat. Raises `RequestError`."""
    request = received.request
    tools, tool_choice = _offered(request)
    given = {
        "response_format": _response_format(request),
        "messages": [*_instructions(request), *_messages(items)],
        "tools": tools,
        "tool_choice": tool_choice,
        "parallel_tool_calls": request.parallel_tool_calls,
        "reasoning": request.reasoning,
        "enable_thinking": request.enable_thinking,
        "chat_template_kwargs": request.chat_template_kwargs,
    }
    return as_chat(received, given | more)


def _instructions(request: InputTokensRequest) -> list[ChatMessage]:
    return [ChatMessage(role="system", content=request.instructions)] if request.instructions else []


def _messages(items: Iterable[Placed]) -> list[ChatMessage]:
    turns = _Turns()
    for item, path in items:
        turns.add(item, path)
    turns.end_assistant()
    return turns.messages


class _Turns:
    """Items become messages; those of the assistant wait until its turn has ended."""

    def __init__(self) -> None:
        self.messages: list[ChatMessage] = []
        self._reasoning: list[str] = []
        self._said: list[ContentPart] | None = None
        self._calls: list[ToolCall] = []

    def add(self, item: InputItem, path: str) -> None:
        """One more. Raises `RequestError`."""
        match item.kind:
            case "reasoning":
                self._begin_assistant()
                self._reasoning += (part.text or "" for part in _parts(item.content or item.summary, path))
            case "message" if item.role == "assistant":
                self._begin_assistant()
                self._said = _parts(item.content, f"{path}.content")
            case "function_call" | "custom_tool_call":
                self._calls.append(_call(item, path))
            case "message":
                self.end_assistant()
                role = _required(item.role, f"{path}.role")
                self.messages.append(ChatMessage(role=role, content=_parts(item.content, f"{path}.content")))
            case "function_call_output" | "custom_tool_call_output":
                self.end_assistant()
                self.messages.append(_result(item, path))
            case kind:
                shown = f"of type {kind}" if kind in _SHOWN_ITEMS else "of this type"
                text = f"{path}: an item {shown} is not supported here; the model takes texts and calls of tools"
                raise RequestError(text, param=path)

    def end_assistant(self) -> None:
        """What the assistant said, if anything waits."""
        if self._reasoning or self._said is not None or self._calls:
            message = ChatMessage(
                role="assistant",
                content=self._said,
                tool_calls=self._calls or None,
                reasoning_content="\n".join(self._reasoning) if self._reasoning else None,
            )
            self.messages.append(message)
        self._reasoning, self._said, self._calls = [], None, []

    def _begin_assistant(self) -> None:
        """Reasoning comes first in a turn, then at most one text, then calls."""
        if self._said is not None or self._calls:
            self.end_assistant()


def _call(item: InputItem, path: str) -> ToolCall:
    if item.kind == "custom_tool_call":
        custom = CustomCall(name=_required(item.name, f"{path}.name"), input=_required(item.input, f"{path}.input"))
        return ToolCall(id=_required(item.call_id, f"{path}.call_id"), type="custom", custom=custom)
    function = FunctionCall(
        name=_required(item.name, f"{path}.name"), arguments=_required(item.arguments, f"{path}.arguments")
    )
    return ToolCall(id=_required(item.call_id, f"{path}.call_id"), function=function)


def _result(item: InputItem, path: str) -> ChatMessage:
    content = _parts(item.output, f"{path}.output")
    return ChatMessage(role="tool", content=content, tool_call_id=_required(item.call_id, f"{path}.call_id"))


def _parts(content: str | Sequence[InputPart] | None, path: str) -> list[ContentPart]:
    if content is None:
        raise _missing(path)
    if isinstance(content, str):
        return [ContentPart(type="text", text=content)]
    return [_part(part, f"{path}[{nth}]") for nth, part in enumerate(content)]


def _part(part: InputPart, path: str) -> ContentPart:
    if part.type == "refusal":
        return ContentPart(type="text", text=_required(part.refusal, f"{path}.refusal"))
    if part.type not in TEXT_TYPES:
        shown = f"of type {part.type}" if part.type in _SHOWN_PARTS else "of this type"
        raise RequestError(f"{path}: content {shown} is not supported; this model takes text only", param=path)
    return ContentPart(type="text", text=_required(part.text, f"{path}.text"))


def _required(value: T | None, path: str) -> T:
    if value is None:
        raise _missing(path)
    return value


def _missing(path: str) -> RequestError:
    return RequestError(f"{path}: the field is required", param=path)


def _tool(tool: OfferedTool, path: str) -> ToolDefinition:
    if tool.type == "custom":
        wanted = CustomFormat() if tool.format is UNSET else tool.format.as_chats_have_it()
        name = _required(tool.name, f"{path}.name")
        custom = CustomDefinition(name=name, description=tool.description, format=wanted)
        return ToolDefinition(type="custom", custom=custom)
    if tool.type != "function":
        shown = f"{tool.type} tools are" if tool.type in _SHOWN_TOOLS else "this type is"
        text = f"{path}.type: {shown} not supported; only function and custom are, which the client runs itself"
        raise RequestError(text, param=f"{path}.type", code="unsupported_parameter")

    function = FunctionDefinition(
        name=_required(tool.name, f"{path}.name"),
        description=tool.description,
        parameters=tool.parameters,
        strict=tool.strict,
    )
    return ToolDefinition(function=function)


def _offered(request: InputTokensRequest) -> tuple[list[ToolDefinition], str | NamedTool]:
    """The tools that may be called, and which of them have to be. Raises `RequestError`."""
    tools = [_tool(tool, f"tools[{at}]") for at, tool in enumerate(request.tools)]
    choice = request.tool_choice
    if isinstance(choice, str):
        return tools, choice
    if choice.type in ("function", "custom"):
        named = ToolName(name=_required(choice.name, "tool_choice.name"))
        return tools, NamedTool(custom=named, type="custom") if choice.type == "custom" else NamedTool(function=named)
    if choice.type == "allowed_tools":
        return _allowed(tools, choice), choice.mode or "auto"

    text = "tool_choice.type: only function, custom and allowed_tools are supported, beside none, auto and required"
    raise RequestError(text, param="tool_choice.type", code="unsupported_parameter")


def _allowed(tools: Sequence[ToolDefinition], choice: ChosenTool) -> list[ToolDefinition]:
    """The others are not shown to the model."""
    known = {(tool.type, tool.function.name) for tool in tools}
    for at, allowed in enumerate(choice.tools):
        if (allowed.type, allowed.name) not in known:
            param = f"tool_choice.tools[{at}]"
            raise RequestError(f"{param}: none of the request's tools is of this type and name", param=param)
    allowed_names = {allowed.name for allowed in choice.tools}
    return [tool for tool in tools if tool.function.name in allowed_names]


def _response_format(request: InputTokensRequest) -> dict[str, Any] | None:
    wanted = request.text.format
    if wanted.type == "text":
        return request.response_format
    if request.response_format is not None:
        raise RequestError("text.format: response_format asks for a form already", param="text.format")
    return _format(wanted)


def _format(wanted: TextFormat) -> dict[str, Any]:
    if wanted.type == "json_object":
        return {"type": "json_object"}
    schema = _required(wanted.schema, "text.format.schema")
    return {"type": "json_schema", "json_schema": {"schema": schema, "strict": wanted.strict}}
