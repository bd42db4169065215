"""The tools that a chat may call, and which of them it must."""

from __future__ import annotations

from typing import Any, Literal

from histrio_api.schemas.strict import Strict

__all__ = ["AllowedTool", "AllowedTools", "FunctionDefinition", "NamedTool", "ToolDefinition", "ToolName"]


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


class AllowedTool(Strict, frozen=True):
    """One of the tools that may be called."""

    function: ToolName
    type: Literal["function"] = "function"


class AllowedTools(Strict, frozen=True):
    """Some of the request's tools, and whether one of them must be called."""

    tools: list[AllowedTool]
    mode: Literal["auto", "required"] = "auto"


class NamedTool(Strict, frozen=True):
    """`tool_choice`: exactly this one; or, by its type, one of some."""

    function: ToolName | None = None
    type: Literal["function", "allowed_tools"] = "function"
    allowed_tools: AllowedTools | None = None

    @property
    def name(self) -> str:
        """Of the tool that must be called."""
        return "" if self.function is None else self.function.name
