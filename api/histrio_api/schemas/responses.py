"""POST /v1/responses and /v1/responses/input_tokens: what is asked."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from histrio_api.schemas.chat import ReasoningWish
from histrio_api.schemas.custom_tools import CustomFormat, CustomGrammar
from histrio_api.schemas.generation import GenerationRequest
from histrio_api.schemas.strict import (
    NOT_EMPTY,
    NULL,
    OBJECT,
    STRING,
    NumTopLogprobs,
    PositiveInt,
    Schema,
    Strict,
    by_type,
)

__all__ = [
    "TEXT_TYPES",
    "AllowedTool",
    "ChosenTool",
    "InputItem",
    "InputPart",
    "InputTokensRequest",
    "OfferedTool",
    "ResponsesRequest",
    "TextFormat",
    "TextWish",
]


TEXT_TYPES = ("input_text", "output_text", "reasoning_text", "summary_text", "text")
_ITEM_TYPES = [
    *("message", "reasoning", "function_call", "function_call_output"),
    *("custom_tool_call", "custom_tool_call_output", "item_reference"),
]


class InputPart(Strict, frozen=True, omit_defaults=True):
    """A part of an item's content; only texts are served, other types are refused by name."""

    rules: ClassVar[Schema] = by_type(**{name: {"text": STRING} for name in TEXT_TYPES}, refusal={"refusal": STRING})

    type: str
    text: str | None = None
    refusal: str | None = None


class InputItem(Strict, frozen=True, omit_defaults=True):
    """An item of a conversation; which fields it has is for its type to say."""

    type: Annotated[str, Meta(extra_json_schema={"enum": _ITEM_TYPES})] | None = None
    """None: `message` where there is a role, else `item_reference`."""
    id: str | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[InputPart] | None = None
    """Of a message, or of reasoning."""
    summary: list[InputPart] = msgspec.field(default_factory=list)
    """Of reasoning; read where that has no content."""
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None
    """Of a call of a custom tool."""
    output: str | list[InputPart] | None = None
    """Of a call that the client ran."""

    @property
    def kind(self) -> str:
        """Its type, given or meant."""
        return self.type or ("item_reference" if self.role is None else "message")


class OfferedFormat(Strict, frozen=True, omit_defaults=True):
    """What the text must look like that a custom tool is given."""

    rules: ClassVar[Schema] = by_type(
        text={"syntax": NULL, "definition": NULL}, grammar={"syntax": {"const": "regex"}, "definition": STRING}
    )

    type: Literal["text", "grammar"]
    syntax: Literal["regex", "lark"] | None = None
    definition: str | None = None

    def __post_init__(self) -> None:
        """Raises `ValueError` for a grammar that cannot be enforced, or where the type says that there is none."""
        self.as_chats_have_it()

    def as_chats_have_it(self) -> CustomFormat:
        """The same in a chat."""
        if self.syntax is None or self.definition is None or self.type == "text":
            if (self.syntax, self.definition, self.type) != (None, None, "text"):
                raise ValueError("the type grammar has the fields syntax and definition, and the type text has neither")
            return CustomFormat()
        return CustomFormat(type="grammar", grammar=CustomGrammar(definition=self.definition, syntax=self.syntax))


class OfferedTool(Strict, frozen=True):
    """One entry of `tools`; those that a server would run itself are refused by their type."""

    rules: ClassVar[Schema] = by_type(function={"name": STRING}, custom={"name": STRING})

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    format: OfferedFormat | UnsetType = UNSET
    """Of a custom tool."""


class AllowedTool(Strict, frozen=True):
    """One of those that may be called."""

    type: str
    name: str


class ChosenTool(Strict, frozen=True, omit_defaults=True):
    """`tool_choice`: exactly this tool, or these `allowed_tools` alone."""

    rules: ClassVar[Schema] = by_type(function={"name": STRING}, custom={"name": STRING}, allowed_tools={})

    type: str
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    """Of allowed tools; None: auto."""
    tools: list[AllowedTool] = msgspec.field(default_factory=list)
    """The allowed ones."""


class TextFormat(Strict, frozen=True, omit_defaults=True):
    """The form of the answer's text."""

    rules: ClassVar[Schema] = by_type(text={}, json_object={}, json_schema={"schema": OBJECT})

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class TextWish(Strict, frozen=True):
    """What is wished of the answer's text."""

    format: TextFormat = TextFormat(type="text")


class InputTokensRequest(GenerationRequest, frozen=True, kw_only=True):
    """POST /v1/responses/input_tokens: all that becomes the prompt."""

    input: str | Annotated[list[InputItem], NOT_EMPTY]
    instructions: str | None = None
    """Said before all else; those of earlier responses are forgotten."""
    previous_response_id: str | None = None
    """Of a response that is kept: its conversation goes on."""
    tools: list[OfferedTool] = msgspec.field(default_factory=list)
    tool_choice: Literal["none", "auto", "required"] | ChosenTool = "auto"
    parallel_tool_calls: bool = True
    reasoning: ReasoningWish | None = None
    text: TextWish = TextWish()
    chat_template_kwargs: dict[str, Any] = msgspec.field(default_factory=dict)
    enable_thinking: bool | None = None


class ResponsesRequest(InputTokensRequest, frozen=True, kw_only=True):
    """POST /v1/responses."""

    max_output_tokens: PositiveInt | None = None
    top_logprobs: NumTopLogprobs = 0
    include: list[str] = msgspec.field(default_factory=list)
    """Of all that may be asked for here, `message.output_text.logprobs` is served."""
    metadata: Any = None
    """An object, given back as it came."""
    store: bool | None = None
    """Whether to keep the answer for later requests; None: where answers are kept."""
