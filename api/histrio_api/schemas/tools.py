"""The tools that a chat may call, and which of them it must."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec.structs import force_setattr

from histrio_api.schemas.custom_tools import CustomDefinition
from histrio_api.schemas.strict import NOT_EMPTY, NULL, OBJECT, Schema, Strict, by_type, require_of_type

__all__ = ["AllowedTool", "AllowedTools", "FunctionDefinition", "NamedTool", "ToolDefinition", "ToolName"]


class FunctionDefinition(Strict, frozen=True):
    """A function the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    """True: the arguments of every call follow `parameters`. They do anyway where a call is demanded."""


_FUNCTION_OR_CUSTOM = by_type("function", function={"function": OBJECT, "custom": NULL}, custom={"custom": OBJECT})
_NO_FUNCTION = FunctionDefinition(name="")


class ToolDefinition(Strict, frozen=True):
    """One entry of `tools`. Whatever its type is, it has a function, as which it is offered to the model."""

    rules: ClassVar[Schema] = _FUNCTION_OR_CUSTOM

    function: FunctionDefinition = _NO_FUNCTION
    type: Literal["function", "custom"] = "function"
    custom: CustomDefinition | None = None

    def __post_init__(self) -> None:
        """A custom tool is a function of one text. Raises `ValueError` if what its type asks for is not given."""
        require_of_type(self.type, self.custom, is_function=self.function is not _NO_FUNCTION)
        if self.custom is not None:
            custom = self.custom
            function = FunctionDefinition(
                name=custom.name,
                description=custom.description,
                parameters=custom.parameters,
                strict=custom.has_form or None,
            )
            force_setattr(self, "function", function)


class ToolName(Strict, frozen=True):
    """The function that must be called."""

    name: str


_NO_NAME = ToolName(name="")


class AllowedTool(Strict, frozen=True):
    """One of the tools that may be called."""

    rules: ClassVar[Schema] = _FUNCTION_OR_CUSTOM

    function: ToolName = _NO_NAME
    type: Literal["function", "custom"] = "function"
    custom: ToolName | None = None

    def __post_init__(self) -> None:
        """Raises `ValueError` if what its type asks for is not given."""
        require_of_type(self.type, self.custom, is_function=self.function is not _NO_NAME)
        if self.custom is not None:
            force_setattr(self, "function", self.custom)


class AllowedTools(Strict, frozen=True):
    """Some of the request's tools, and whether one of them must be called."""

    tools: Annotated[list[AllowedTool], NOT_EMPTY]
    mode: Literal["auto", "required"] = "auto"


class NamedTool(Strict, frozen=True):
    """`tool_choice`: exactly this one; or, by its type, one of some."""

    rules: ClassVar[Schema] = by_type(
        "function", **{name: {name: OBJECT} for name in ("function", "custom", "allowed_tools")}
    )

    function: ToolName | None = None
    type: Literal["function", "custom", "allowed_tools"] = "function"
    allowed_tools: AllowedTools | None = None
    custom: ToolName | None = None

    @property
    def name(self) -> str:
        """Of the tool that must be called."""
        named = self.custom if self.type == "custom" else self.function
        return "" if named is None else named.name
