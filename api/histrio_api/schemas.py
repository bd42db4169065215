"""Requests and answers of the OpenAI-compatible API as msgspec structs.

A request struct has only fields that are honoured. What else a request may carry is decided in `fields.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from histrio.grammar import TagStructure

__all__ = [
    "ChatChoice",
    "ChatCompletion",
    "ChatLogprobs",
    "ChatMessage",
    "ChatRequest",
    "Completion",
    "CompletionChoice",
    "CompletionLogprobs",
    "CompletionRequest",
    "CompletionTokensDetails",
    "ContentPart",
    "DetokenizeRequest",
    "FunctionDefinition",
    "GenerationRequest",
    "ModelCard",
    "NamedTool",
    "PromptLogprob",
    "PromptLogprobs",
    "ResponseFormat",
    "StreamOptions",
    "StructuralTag",
    "StructuredOutputs",
    "TokenLogprob",
    "TokenizeRequest",
    "ToolDefinition",
    "TopLogprob",
    "Usage",
    "UsageStats",
]

UsageStats: TypeAlias = Literal["none", "last", "every"]

_TokenId = Annotated[int, Meta(ge=0)]
_Priority = Annotated[int, Meta(ge=0, le=100)]
_Salt = Annotated[str, Meta(max_length=256)]
_PositiveInt = Annotated[int, Meta(ge=1)]
_NumTopLogprobs = Annotated[int, Meta(ge=0, le=20)]
_Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class _Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A part of a request: a field that we don't know is refused, not ignored."""


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a stream carries beside the text."""

    include_usage: bool = False
    """A last chunk without choices has the usage."""
    continuous_usage_stats: bool = False
    """Every chunk has the usage so far; needs `include_usage`."""

    @property
    def usage_stats(self) -> UsageStats:
        """Which chunks have a usage."""
        if not self.include_usage:
            return "none"
        return "every" if self.continuous_usage_stats else "last"


class ContentPart(msgspec.Struct):
    """One part of a message's content; only text is served, other types are refused by name."""

    type: str
    text: str | None = None


class FunctionCall(_Strict):
    """A call the assistant made earlier."""

    name: str
    arguments: str | dict[str, Any]


class ToolCall(_Strict):
    """One tool call in an assistant message."""

    function: FunctionCall
    id: str = ""
    type: Literal["function"] = "function"


class ChatMessage(_Strict):
    """One message of a chat. The last four are what clients send back unchanged: accepted while empty."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Meta(max_length=0)] | None = None


class FunctionDefinition(_Strict):
    """A function the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    """True: the arguments follow `parameters`. False: they are any object, even where a call is demanded."""


class ToolDefinition(_Strict):
    """One entry of `tools`."""

    function: FunctionDefinition
    type: Literal["function"] = "function"


class ToolName(_Strict):
    """The function that must be called."""

    name: str


class NamedTool(_Strict):
    """`tool_choice`: exactly this one."""

    function: ToolName
    type: Literal["function"] = "function"


class SchemaFormat(_Strict):
    """The named schema of a `json_schema` format; it is always followed strictly."""

    name: str = ""
    description: str | None = None
    schema: dict[str, Any] | bool | None = None
    strict: bool | None = None


class ResponseFormat(_Strict):
    """`response_format`: any text, any JSON object, JSON after a schema, or text with structures in it."""

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: SchemaFormat | None = None
    schema: dict[str, Any] | bool | None = None
    """Of `json_object`, as some servers have it."""
    structures: list[TagStructure] | None = None
    """Of `structural_tag`, like `triggers`."""
    triggers: list[str] | None = None


class StructuralTag(_Strict):
    """Text in which each trigger begins one of the structures."""

    structures: list[TagStructure]
    triggers: list[str]
    type: Literal["structural_tag"] = "structural_tag"


class StructuredOutputs(_Strict):
    """`structured_outputs`: one of these."""

    json: dict[str, Any] | bool | str | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: StructuralTag | str | None = None


class GenerationRequest(_Strict):
    """What chat and plain completions have in common; sampling fields are kept apart."""

    model: str
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    max_tokens: _PositiveInt | None = None
    n: _PositiveInt = 1
    prompt_logprobs: _NumTopLogprobs | None = None
    """Of each token of the prompt and of that many of the likeliest; not with `stream`."""
    seed: _Seed | None = None
    stop: str | list[str] = []
    stop_token_ids: list[_TokenId] = []
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    priority: _Priority = 0
    """0 is let in first."""
    cache_salt: _Salt = ""
    """Prefixes are shared only among requests of the same salt."""
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    json_schema: dict[str, Any] | bool | str | None = None
    regex: str | None = None
    grammar: str | None = None
    ebnf: str | None = None
    guided_json: dict[str, Any] | bool | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None


class ChatRequest(GenerationRequest, kw_only=True):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage]
    max_completion_tokens: _PositiveInt | None = None
    logprobs: bool = False
    top_logprobs: _NumTopLogprobs = 0
    """Needs `logprobs`."""
    tools: list[ToolDefinition] = []
    tool_choice: Literal["none", "auto", "required"] | NamedTool = "auto"
    """`required`: the answer is one call or several; a name: one call of that tool."""
    parallel_tool_calls: bool = True
    """False: at most one call."""
    chat_template_kwargs: dict[str, Any] = {}
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False


class CompletionRequest(GenerationRequest, kw_only=True):
    """POST /v1/completions. A prompt is text or token ids, or a list of either."""

    prompt: str | list[str | _TokenId | list[_TokenId]]
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    """0 to have nothing but the prompt scored."""
    echo: bool = False
    """The text begins with the prompt, and `logprobs` with its tokens."""
    logprobs: _NumTopLogprobs | None = None
    """Of each token and of that many of the likeliest."""
    add_special_tokens: bool = True


class TokenizeRequest(_Strict):
    """POST /tokenize: of a text, or of a chat as its prompt would be."""

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True
    return_token_strs: bool = False


class DetokenizeRequest(_Strict):
    """POST /detokenize."""

    tokens: list[_TokenId]
    model: str | None = None


class PromptTokensDetails(msgspec.Struct):
    """How a prompt's tokens were come by."""

    cached_tokens: int
    """Of all prompts of the request, taken from the prefix cache."""


class CompletionTokensDetails(msgspec.Struct):
    """How the answers' tokens were come by, all choices together."""

    accepted_prediction_tokens: int
    """Guessed ahead, and right."""
    rejected_prediction_tokens: int
    """Guessed ahead in vain; they are in no answer, and in no other count."""


class Usage(msgspec.Struct):
    """Tokens of a request; those of all its choices together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class CalledFunction(msgspec.Struct):
    """Name and JSON arguments of a call in an answer."""

    name: str
    arguments: str


class CalledTool(msgspec.Struct):
    """A tool call in an answer."""

    id: str
    function: CalledFunction
    type: str = "function"


class TopLogprob(msgspec.Struct):
    """One of the likeliest tokens in a token's place."""

    token: str
    """Its text; `bytes:\\xe2\\x80` where it is only part of a character."""
    logprob: float
    bytes: list[int]


class TokenLogprob(msgspec.Struct):
    """A token of an answer, or of an echoed prompt, with its natural log probability."""

    token: str
    logprob: float | None
    """None for the first token of a prompt, before which there is nothing."""
    bytes: list[int]
    top_logprobs: list[TopLogprob]
    """The likeliest first."""


class ChatLogprobs(msgspec.Struct):
    """`logprobs` of a chat's choice, or of a piece of it."""

    content: list[TokenLogprob]
    refusal: None = None


class CompletionLogprobs(msgspec.Struct):
    """`logprobs` of a plain completion's choice, or of a piece of it: columns with an entry for each token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    """None for the first token of a prompt."""
    top_logprobs: list[dict[str, float] | None]
    """By text; the chosen token is always among them."""
    text_offset: list[int]
    """Where the token begins in the choice's text, in characters."""


class PromptLogprob(msgspec.Struct):
    """A token in one place of the prompt."""

    logprob: float
    rank: int | None
    """1 for the likeliest; None for the prompt's own token where it is not among those that were asked for."""
    decoded_token: str


PromptLogprobs: TypeAlias = list[dict[str, PromptLogprob] | None]
"""For each token of a prompt: by id, the token itself and then the likeliest ones. None for the first."""


class AnswerMessage(msgspec.Struct):
    """The assistant's message in an answer."""

    content: str | None
    role: str = "assistant"
    refusal: None = None
    tool_calls: list[CalledTool] | msgspec.UnsetType = msgspec.UNSET
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    """What the model thought before it answered."""


class ChatChoice(msgspec.Struct):
    """One of the `n` answers."""

    index: int
    message: AnswerMessage
    finish_reason: str
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
    prompt_logprobs: PromptLogprobs | msgspec.UnsetType = msgspec.UNSET


class CompletionChoice(msgspec.Struct):
    """One of the `n` continuations of one prompt."""

    index: int
    text: str
    finish_reason: str
    logprobs: CompletionLogprobs | None = None
    prompt_logprobs: PromptLogprobs | msgspec.UnsetType = msgspec.UNSET


class Completion(msgspec.Struct):
    """The answer of /v1/completions."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    system_fingerprint: str
    object: str = "text_completion"


class ModelCard(msgspec.Struct):
    """One entry of /v1/models."""

    id: str
    created: int
    max_model_len: int
    """Longest prompt + answer in tokens."""
    object: str = "model"
    owned_by: str = "histrio"
