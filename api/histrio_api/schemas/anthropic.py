"""POST /v1/messages and /v1/messages/count_tokens: what is asked, and the whole answer."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import msgspec

from histrio_api.schemas.generation import GenerationRequest
from histrio_api.schemas.strict import (
    NOT_EMPTY,
    OBJECT,
    STRING,
    OnlyText,
    PositiveInt,
    Schema,
    Strict,
    TokenBudget,
    by_type,
)

__all__ = [
    "AnsweredBlock",
    "AnsweredMessage",
    "Block",
    "CountTokensRequest",
    "InputMessage",
    "MessageUsage",
    "MessagesRequest",
    "OfferedTool",
    "OutputConfig",
    "ResultBlock",
    "TextBlock",
    "Thinking",
    "ThinkingBlock",
    "ToolChoice",
    "ToolUseBlock",
]


class ResultBlock(Strict, frozen=True):
    """A block of a system prompt or of a tool's result; only text is served, other types are refused by name."""

    rules: ClassVar[Schema] = {"properties": {"text": STRING}, "required": ["type", "text"]}

    type: OnlyText
    text: str | None = None


class Block(Strict, frozen=True):
    """A block of a message's content; which fields it has is for its type to say."""

    rules: ClassVar[Schema] = by_type(
        text={"text": STRING},
        thinking={"thinking": STRING},
        redacted_thinking={},
        tool_use={"id": STRING, "name": STRING},
        tool_result={"tool_use_id": STRING},
    )

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list[ResultBlock] | None = None
    """Of a tool's result."""


class InputMessage(Strict, frozen=True):
    """One turn of a conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class OfferedTool(Strict, frozen=True):
    """One entry of `tools`; those that a server would run itself are refused by their type."""

    rules: ClassVar[Schema] = {
        "properties": {"type": {"const": "custom"}, "input_schema": OBJECT},
        "required": ["name", "input_schema"],
    }

    name: str
    type: str = "custom"
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class ToolChoice(Strict, frozen=True):
    """`any`: one call or several; `tool`: one call of the named tool."""

    rules: ClassVar[Schema] = by_type(auto={}, any={}, none={}, tool={"name": STRING})

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False
    """At most one call."""


class Thinking(Strict, frozen=True):
    """Whether the model is to reason, where its template asks."""

    type: Literal["enabled", "adaptive", "between_tools", "disabled"]
    """The first three are one here."""
    budget_tokens: TokenBudget | None = None
    """Most tokens of the reasoning."""


class OutputFormat(Strict, frozen=True):
    """The schema that the answer's text must follow."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Strict, frozen=True):
    """What is wished of the answer's text."""

    format: OutputFormat | None = None


class CountTokensRequest(GenerationRequest, frozen=True, kw_only=True):
    """POST /v1/messages/count_tokens: all that becomes the prompt."""

    messages: Annotated[list[InputMessage], NOT_EMPTY]
    system: str | list[ResultBlock] = ""
    tools: list[OfferedTool] = msgspec.field(default_factory=list)
    tool_choice: ToolChoice = ToolChoice(type="auto")
    thinking: Thinking | None = None
    output_config: OutputConfig = OutputConfig()
    stop_sequences: list[str] = msgspec.field(default_factory=list)


class MessagesRequest(CountTokensRequest, frozen=True, kw_only=True):
    """POST /v1/messages."""

    max_tokens: PositiveInt
    """An answer ends earlier where the context is full."""


class TextBlock(msgspec.Struct, tag="text"):
    """What the model says."""

    text: str


class ThinkingBlock(msgspec.Struct, tag="thinking"):
    """What it says before that."""

    thinking: str
    signature: str = ""
    """Nothing is signed here."""


class ToolUseBlock(msgspec.Struct, tag="tool_use"):
    """A call."""

    id: str
    name: str
    input: dict[str, Any]


AnsweredBlock: TypeAlias = TextBlock | ThinkingBlock | ToolUseBlock


class MessageUsage(msgspec.Struct):
    """Tokens of a request; what of the prompt came from the prefix cache is in `cache_read_input_tokens` alone."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int = 0
    """Every prompt is cached, so nothing is counted as put there."""


class AnsweredMessage(msgspec.Struct, tag="message"):
    """The answer of /v1/messages, and what a stream of it begins with."""

    id: str
    model: str
    content: list[AnsweredBlock]
    usage: MessageUsage
    stop_reason: str | None = None
    stop_sequence: str | None = None
    role: str = "assistant"
