"""The tools that a chat may call, and which of them it must."""

from __future__ import annotations

from typing import Any, Literal

from histrio_api.schemas.strict import Strict

__all__ = ["FunctionDefinition", "NamedTool", "ToolDefinition", "ToolName"]


class FunctionDefinition(Strict, frozen=True):
    """A function the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    """True: the arguments of every call follow `parameters`. They do anyway where a call is demanded."""


class ToolDefinition(Strict, frozen=True):
    """One entry of `tools`."""

    function: FunctionDefinition
    type: Literal["function"] = "function"


class ToolName(Strict, frozen=True):
    """The function that must be called."""

    name: str


class NamedTool(Strict, frozen=True):
    """`tool_choice`: exactly this one."""

    function: ToolName
    type: Literal["function"] = "function"
