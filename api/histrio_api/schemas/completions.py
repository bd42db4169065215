"""POST /v1/completions: what is asked, and the whole answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from histrio_api.schemas.generation import AnsweredChoice, GenerationRequest
from histrio_api.schemas.strict import AnyTopLogprobs, NamedTokens, NumLogprobs, PromptCut, TokenId
from histrio_api.schemas.usage import Usage

__all__ = ["Completion", "CompletionChoice", "CompletionRequest"]


class CompletionRequest(GenerationRequest, frozen=True, kw_only=True):
    """POST /v1/completions. A prompt is text or token ids, or a list of either."""

    prompt: str | list[str | TokenId | list[TokenId]]
    max_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    """0 to have nothing but the prompt scored."""
    suffix: str = ""
    """What stands behind the answer: a model with tokens for it fills in what is between. Not with `echo`."""
    echo: bool = False
    """The text begins with the prompt, and `logprobs` with its tokens."""
    logprobs: NumLogprobs | None = None
    """Of each token and of that many of the likeliest."""
    logprob_token_ids: NamedTokens = msgspec.field(default_factory=list)
    """`top_logprobs` have these tokens in place of the likeliest ones; needs `logprobs`."""
    prompt_logprobs: AnyTopLogprobs | None = None
    """Of each token of the prompt and of that many of the likeliest, -1 for the whole vocabulary; not with `stream`."""
    add_special_tokens: bool = True
    return_token_ids: bool = False
    """The answer has the ids of the prompt, and of all tokens that were generated."""
    truncate_prompt_tokens: PromptCut | None = None
    """Most tokens of the prompt: of a longer one the last so many are kept; -1 for as many as leave room."""
    truncation_side: Literal["left", "right"] | None = None
    """Where a longer one is cut; left by default."""

    @classmethod
    def own_names(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """`logprobs: false`, as chats have it, asks for none."""
        given = super().own_names(fields)
        return given | {"logprobs": None} if given.get("logprobs") is False else given


class CompletionChoice(AnsweredChoice, kw_only=True):
    """One of the `n` continuations of one prompt."""

    text: str
    logprobs: msgspec.Raw | None = None
    """JSON of `CompletionLogprobs`."""
    prompt_logprobs: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    """JSON of `PromptLogprobs`."""
    prompt_token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET


class Completion(msgspec.Struct):
    """The answer of /v1/completions."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    system_fingerprint: str
    object: str = "text_completion"
