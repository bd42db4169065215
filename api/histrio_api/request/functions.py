"""What a chat says of tools in other words: `functions` and `function_call`, which were there before, and
`allowed_tools`, become tools and a choice that say the same."""

from __future__ import annotations

from msgspec.structs import replace

from histrio.errors import RequestError
from histrio_api.schemas.chat import ChatRequest
from histrio_api.schemas.tools import AllowedTools, NamedTool, ToolDefinition, ToolName

__all__ = ["with_tools"]


def with_tools(chat: ChatRequest) -> ChatRequest:
    """The same request in terms of tools, of which those that may not be called are left out.

    Raises `RequestError` for one that contradicts itself.
    """
    chat = _without_functions(chat)
    choice = chat.tool_choice
    if not isinstance(choice, NamedTool):
        return chat
    given = getattr(choice, choice.type)
    if given is None:
        param = f"tool_choice.{choice.type}"
        raise RequestError(f"{param}: the field is required", param=param)
    return _with_allowed(chat, given) if isinstance(given, AllowedTools) else chat


def _with_allowed(chat: ChatRequest, allowed: AllowedTools) -> ChatRequest:
    known = {tool.function.name for tool in chat.tools}
    for at, tool in enumerate(allowed.tools):
        if tool.function.name not in known:
            param = f"tool_choice.allowed_tools.tools[{at}].{tool.type}.name"
            raise RequestError(f"{param}: none of the request's tools has this name", param=param)
    names = {tool.function.name for tool in allowed.tools}
    if not names:
        param = "tool_choice.allowed_tools.tools"
        raise RequestError(f"{param}: give at least one tool, or a tool_choice of none", param=param)
    return replace(chat, tools=[tool for tool in chat.tools if tool.function.name in names], tool_choice=allowed.mode)


def _without_functions(chat: ChatRequest) -> ChatRequest:
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
