"""How many tokens a request took."""

from __future__ import annotations

import msgspec

__all__ = ["CompletionTokensDetails", "PromptTokensDetails", "Usage"]


class PromptTokensDetails(msgspec.Struct):
    """How a prompt's tokens were come by."""

    cached_tokens: int
    """Of all prompts of the request, taken from the prefix cache."""


class CompletionTokensDetails(msgspec.Struct):
    """How many of the answers' tokens were drafted, of all choices together."""

    accepted_prediction_tokens: int
    """Drafted and accepted."""
    rejected_prediction_tokens: int
    """Drafted and rejected; they are in no answer, and in no other count."""
    reasoning_tokens: int
    """Of the reasoning, with the marks around it."""


class Usage(msgspec.Struct):
    """Tokens of a request; those of all its choices together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails
