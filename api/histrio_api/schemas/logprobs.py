"""Log probabilities in answers: of their tokens, and of the prompt's."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

__all__ = ["ChatLogprobs", "CompletionLogprobs", "PromptLogprob", "PromptLogprobs", "TokenLogprob", "TopLogprob"]


class TopLogprob(msgspec.Struct, gc=False):
    """One of the likeliest tokens in a token's place."""

    token: str
    """Its text; `bytes:\\xe2\\x80` where it is only part of a character."""
    logprob: float
    bytes: list[int]
    id: int | msgspec.UnsetType = msgspec.UNSET
    """Where ids are asked for."""


class TokenLogprob(msgspec.Struct, gc=False):
    """A token of an answer, or of an echoed prompt, with its natural log probability."""

    token: str
    logprob: float | None
    """None for the first token of a prompt, before which there is nothing."""
    bytes: list[int]
    top_logprobs: list[TopLogprob] | msgspec.Raw
    """The likeliest first; of many the JSON."""
    id: int | msgspec.UnsetType = msgspec.UNSET
    """Where ids are asked for."""


class ChatLogprobs(msgspec.Struct):
    """`logprobs` of a chat's choice, or of a piece of it."""

    content: list[TokenLogprob]
    refusal: None = None


class CompletionLogprobs(msgspec.Struct):
    """`logprobs` of a plain completion's choice, or of a piece of it: columns with an entry for each token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    """None for the first token of a prompt."""
    top_logprobs: list[dict[str, float] | msgspec.Raw | None]
    """By text; the chosen token is always among them. Of many the JSON."""
    text_offset: list[int]
    """Where the token begins in the choice's text, in characters."""


class PromptLogprob(msgspec.Struct, gc=False):
    """A token in one place of the prompt."""

    logprob: float
    rank: int
    """1 for the likeliest. Of equally likely ones the likeliest that were asked for come first, one after the other."""
    decoded_token: str


PromptLogprobs: TypeAlias = list[dict[str, PromptLogprob] | None]
"""For each token of a prompt: by id, the token itself and then the likeliest ones. None for the first."""
