"""POST /v1/responses: the whole answer, and the items that it consists of."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from histrio_api.schemas.logprobs import TokenLogprob

__all__ = [
    "AnsweredResponse",
    "CalledCustomItem",
    "CalledFunctionItem",
    "IncompleteDetails",
    "InputTokensDetails",
    "ItemStatus",
    "MessageItem",
    "OutputItem",
    "OutputText",
    "OutputTokensDetails",
    "ReasoningItem",
    "ReasoningText",
    "ResponseFailure",
    "ResponseUsage",
]

ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]


class OutputText(msgspec.Struct, tag="output_text"):
    """The text of a message."""

    text: str = ""
    annotations: list[Any] = []
    logprobs: list[TokenLogprob] = []
    """Of all tokens of the answer, where they are asked for."""


class ReasoningText(msgspec.Struct, tag="reasoning_text"):
    """What the model says to itself."""

    text: str = ""


class MessageItem(msgspec.Struct, tag="message"):
    """What the model says."""

    id: str
    status: ItemStatus = "in_progress"
    role: str = "assistant"
    content: list[OutputText] = []


class ReasoningItem(msgspec.Struct, tag="reasoning"):
    """How it comes to what it says."""

    id: str
    status: ItemStatus = "in_progress"
    summary: list[Any] = []
    """Always empty: reasoning is shown as it is."""
    content: list[ReasoningText] = []


class CalledFunctionItem(msgspec.Struct, tag="function_call"):
    """A call of a tool."""

    id: str
    call_id: str
    name: str
    arguments: str = ""
    status: ItemStatus = "in_progress"


class CalledCustomItem(msgspec.Struct, tag="custom_tool_call"):
    """A call of a tool that takes a text."""

    id: str
    call_id: str
    name: str
    input: str = ""
    status: ItemStatus = "in_progress"


OutputItem: TypeAlias = ReasoningItem | MessageItem | CalledFunctionItem | CalledCustomItem


class InputTokensDetails(msgspec.Struct):
    """How the prompt's tokens were come by."""

    cached_tokens: int
    cache_write_tokens: int = 0
    """Every prompt is cached, so none is counted as put there."""


class OutputTokensDetails(msgspec.Struct):
    """What the answer's tokens are."""

    reasoning_tokens: int


class ResponseUsage(msgspec.Struct):
    """Tokens of a response."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseFailure(msgspec.Struct):
    """Why a response failed."""

    code: str
    message: str


class IncompleteDetails(msgspec.Struct):
    """Why a response ended early."""

    reason: str = "max_output_tokens"


class AnsweredResponse(msgspec.Struct, tag_field="object", tag="response", kw_only=True):
    """The answer of /v1/responses, and what the events of its beginning and its end carry; with what was asked."""

    id: str
    created_at: int
    model: str
    status: Literal["in_progress", "completed", "incomplete", "failed"] = "in_progress"
    completed_at: int | None = None
    output: list[OutputItem] = []
    usage: ResponseUsage | None = None
    error: ResponseFailure | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: msgspec.Raw
    tool_choice: Any = "auto"
    parallel_tool_calls: bool = True
    reasoning: Any
    text: Any
    temperature: float
    top_p: float
    top_logprobs: int = 0
    max_output_tokens: int | None = None
    metadata: Any
    store: bool
    truncation: str = "disabled"
    background: bool = False
    user: str | None = None
    safety_identifier: str | None = None
