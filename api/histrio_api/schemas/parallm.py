"""MLX ParaLLM's endpoints: what /v1/generate and /v1/generate_batch are asked, and what /v1/configure may change."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from histrio_api.schemas.generation import GenerationRequest
from histrio_api.schemas.strict import NOT_EMPTY, PositiveInt, Strict

__all__ = ["Changes", "GeneratedText", "GeneratedTexts", "TextFields", "TextRequest", "TextsRequest"]

_NumDrafts = Annotated[int, Meta(ge=0, le=64)]
_WaitMs = Annotated[float, Meta(ge=0, le=10_000)]
_Seconds = Annotated[float, Meta(gt=0)]


class TextFields(GenerationRequest, frozen=True, kw_only=True):
    """What both have in common."""

    use_speculative: bool | None = None
    """False: no token is drafted. True: as many as the engine allows, also where `/v1/configure` has turned it off."""


class TextRequest(TextFields, frozen=True, kw_only=True):
    """POST /v1/generate."""

    prompt: str


class TextsRequest(TextFields, frozen=True, kw_only=True):
    """POST /v1/generate_batch."""

    prompts: Annotated[list[str], NOT_EMPTY]


class GeneratedText(msgspec.Struct):
    """The answer to one prompt."""

    text: str
    tokens_generated: int
    generation_time: float
    """Seconds from the request's arrival to the last token."""
    method: str
    """`speculative` where tokens were drafted, or else `continuous_batching`."""


class GeneratedTexts(msgspec.Struct):
    """The answers to all prompts, in their order."""

    results: list[GeneratedText]
    total_time: float
    batch_size: int


class Changes(Strict, frozen=True, omit_defaults=True):
    """What may change while the server runs; None leaves it as it is."""

    use_speculative_decoding: bool | None = None
    """False: no token is drafted for requests that do not ask for it."""
    max_speculation: _NumDrafts | None = None
    """Of requests that have none of their own."""
    max_batch_size: PositiveInt | None = None
    batch_timeout_ms: _WaitMs | None = None
    any_model: bool | None = None
    """A setting of `[api]`, like those that follow."""
    keep_alive_s: _Seconds | None = None
    log_requests: bool | None = None
    max_choices: PositiveInt | None = None
    max_prompts: PositiveInt | None = None
    strict: bool | None = None
