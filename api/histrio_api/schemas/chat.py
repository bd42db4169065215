"""POST /v1/chat/completions: what is asked, and the whole answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from histrio_api.schemas.generation import AnsweredChoice, GenerationRequest
from histrio_api.schemas.logprobs import ChatLogprobs
from histrio_api.schemas.messages import ChatMessage
from histrio_api.schemas.strict import (
    NOT_EMPTY,
    AnyTopLogprobs,
    NamedTokens,
    PositiveInt,
    PromptCut,
    Strict,
    TokenBudget,
)
from histrio_api.schemas.tools import FunctionDefinition, NamedTool, ToolDefinition, ToolName
from histrio_api.schemas.usage import Usage

__all__ = [
    "AnswerMessage",
    "CalledCustom",
    "CalledCustomTool",
    "CalledFunction",
    "CalledTool",
    "ChatChoice",
    "ChatCompletion",
    "ChatRequest",
    "Thinking",
]


class Thinking(Strict, frozen=True):
    """`thinking`, as some servers have it."""

    type: str
    """`enabled` or `disabled`."""
    budget_tokens: TokenBudget | None = None
    """Most tokens of the reasoning."""


class ReasoningWish(Strict, frozen=True):
    """`reasoning`, as OpenRouter has it."""

    effort: str | None = None
    enabled: bool | None = None
    exclude: bool = False
    """The answer is given without its reasoning."""
    max_tokens: TokenBudget | None = None
    """Of the reasoning."""


class ChatRequest(GenerationRequest, frozen=True, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], NOT_EMPTY]
    max_completion_tokens: PositiveInt | None = None
    logprobs: bool = False
    top_logprobs: AnyTopLogprobs = 0
    """Needs `logprobs`; -1 for the whole vocabulary."""
    logprob_token_ids: NamedTokens = msgspec.field(default_factory=list)
    """`top_logprobs` have these tokens in place of the likeliest ones; needs `logprobs`."""
    prompt_logprobs: AnyTopLogprobs | None = None
    """Of each token of the prompt and of that many of the likeliest, -1 for the whole vocabulary; not with `stream`."""
    tools: list[ToolDefinition] = msgspec.field(default_factory=list)
    tool_choice: Literal["none", "auto", "required"] | NamedTool = "auto"
    """`required`: the answer is one call or several; a name: one call of that tool."""
    functions: list[FunctionDefinition] = msgspec.field(default_factory=list)
    """What `tools` were called before."""
    function_call: Literal["none", "auto"] | ToolName | None = None
    """What `tool_choice` was called before."""
    parallel_tool_calls: bool = True
    """False: at most one call."""
    chat_template_kwargs: dict[str, Any] = msgspec.field(default_factory=dict)
    reasoning_effort: str | None = None
    """Like the next four, for a variable of the template; a hint where it has none."""
    enable_thinking: bool | None = None
    thinking: bool | Thinking | None = None
    think: bool | str | None = None
    reasoning: ReasoningWish | None = None
    max_reasoning_tokens: TokenBudget | None = None
    """Most tokens between the marks of the reasoning, of which the last then comes; a hint where there are none."""
    include_reasoning: bool = True
    """False: the answer is given without its reasoning."""
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    echo: bool = False
    """The answer begins with the last message, if that is the assistant's."""
    add_special_tokens: bool = False
    return_token_ids: bool = False
    """The answer has the ids of the prompt, and of all tokens that were generated."""
    truncate_prompt_tokens: PromptCut | None = None
    """Most tokens of the prompt: of a longer one the last so many are kept; -1 for as many as leave room."""
    truncation_side: Literal["left", "right"] | None = None
    """Where a longer one is cut; left by default."""

    @property
    def shows_reasoning(self) -> bool:
        """Whether reasoning is part of the answer."""
        return self.include_reasoning and not (self.reasoning is not None and self.reasoning.exclude)


class CalledFunction(msgspec.Struct):
    """Name and JSON arguments of a call in an answer."""

    name: str
    arguments: str


class CalledTool(msgspec.Struct, tag_field="type", tag="function"):
    """A tool call in an answer."""

    id: str
    function: CalledFunction


class CalledCustom(msgspec.Struct):
    """Name of a custom tool, and the text that it is given."""

    name: str
    input: str


class CalledCustomTool(msgspec.Struct, tag_field="type", tag="custom"):
    """A call of a custom tool in an answer."""

    id: str
    custom: CalledCustom


class AnswerMessage(msgspec.Struct):
    """The assistant's message in an answer."""

    content: str | None
    role: str = "assistant"
    refusal: None = None
    tool_calls: list[CalledTool | CalledCustomTool] | msgspec.UnsetType = msgspec.UNSET
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    """The reasoning of the model before its answer."""


class ChatChoice(AnsweredChoice, kw_only=True):
    """One of the `n` answers."""

    message: AnswerMessage
    logprobs: ChatLogprobs | None = None


class ChatCompletion(msgspec.Struct):
    """The answer of /v1/chat/completions."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str
    object: str = "chat.completion"
    prompt_token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    prompt_logprobs: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    """JSON of `PromptLogprobs`."""
