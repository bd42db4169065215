"""What clients sent before there were tools, `functions` and `function_call`, becomes tools that say the same."""

from __future__ import annotations

from msgspec.structs import replace

from histrio.errors import RequestError
from histrio_api.schemas.chat import ChatRequest
from histrio_api.schemas.tools import NamedTool, ToolDefinition, ToolName

__all__ = ["with_tools"]


def with_tools(chat: ChatRequest) -> ChatRequest:
    """The same request in terms of tools. Raises `RequestError` for one that speaks of both."""
    if not chat.functions and chat.function_call is None:
        return chat
    if chat.functions and chat.tools:
        raise RequestError("functions: give tools or functions", param="functions")
    if chat.function_call is not None and chat.tool_choice != "auto":
        raise RequestError("function_call: give tool_choice or function_call", param="function_call")

    tools = [ToolDefinition(function=each) for each in chat.functions] or chat.tools
    call = chat.function_call
    choice = NamedTool(function=call) if isinstance(call, ToolName) else call or chat.tool_choice
    return replace(chat, tools=tools, tool_choice=choice)
