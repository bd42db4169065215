"""Continuations as MLX ParaLLM has them: a text for each prompt, with how long it took."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

from msgspec.structs import replace

from histrio.errors import HistrioError, RequestError
from histrio_api.answer.choice import Choice
from histrio_api.answer.chunks import encode
from histrio_api.answer.generation import Generation
from histrio_api.error_shapes import MAX_MESSAGE_CHARS
from histrio_api.forms.form import Form
from histrio_api.request.absent import require_absent
from histrio_api.request.prepared import Prepared
from histrio_api.request.prompts import require_at_most, text_prompt
from histrio_api.request.received import Received
from histrio_api.request.scores import Scores
from histrio_api.request.structured import requested_grammar
from histrio_api.schemas.generation import StreamOptions
from histrio_api.schemas.parallm import GeneratedText, GeneratedTexts, TextFields, TextRequest, TextsRequest
from histrio_api.shared.edge import Edge

__all__ = ["GENERATE", "GENERATE_BATCH"]

DEFAULT_MAX_TOKENS = 100
_ALL_DRAFTS = 64
_NOT_OF_TEXTS: dict[str, object] = {"n": 1, "stream_options": StreamOptions()}
_NOT_OF_BATCHES = _NOT_OF_TEXTS | {"stream": False}

F = TypeVar("F", bound=TextFields)


def prepare_text(edge: Edge, received: Received[TextRequest]) -> Prepared:
    """From a prompt to its ids. Raises `RequestError`."""
    request = received.request
    require_absent(request, _NOT_OF_TEXTS, "/v1/generate")
    return _prepared(edge, received, [request.prompt], "prompt")


def prepare_texts(edge: Edge, received: Received[TextsRequest]) -> Prepared:
    """The same of several. Raises `RequestError`."""
    request = received.request
    require_absent(request, _NOT_OF_BATCHES, "/v1/generate_batch")
    if not request.prompts:
        raise RequestError("prompts: must not be empty", param="prompts")
    require_at_most("prompts", "prompts are accepted", len(request.prompts), edge.settings.max_prompts)
    return _prepared(edge, received, request.prompts, "prompts")


def _prepared(edge: Edge, received: Received[F], prompts: Sequence[str], param: str) -> Prepared:
    received = _with_drafts(edge, received)
    max_tokens = received.request.max_tokens
    return Prepared(
        received=received,
        prompts=[text_prompt(edge, each, param, add_special=True) for each in prompts],
        prompt_param=param,
        num_wanted_tokens=DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens,
        scores=Scores(),
        grammar=requested_grammar(edge, received),
        hides_special=received.request.skip_special_tokens,
        continues_prompt=True,
    )


def _with_drafts(edge: Edge, received: Received[F]) -> Received[F]:
    """With what `use_speculative` means in its place."""
    request = received.request
    if request.use_speculative is None:
        return received
    if request.max_speculation is not None:
        raise RequestError("use_speculative: max_speculation says it already; give one", param="use_speculative")
    if request.use_speculative and not edge.gateway.model.honours.max_speculation:
        return received  # the engine speculates by options of its own
    most = _ALL_DRAFTS if request.use_speculative else 0
    return dataclasses.replace(received, request=replace(request, max_speculation=most))


class TextAnswer:
    """The text of one prompt."""

    def __init__(self, edge: Edge, prepared: Prepared, generation: Generation) -> None:
        self.generation = generation

    def opening(self) -> bytes:
        """Nothing."""
        return b""

    def piece(self, choice: Choice, text: str) -> bytes:
        """An event, if there is text."""
        return b'data: {"text":' + encode(text) + b"}\n\n" if text else b""

    def waiting(self, *, is_recovering: bool) -> bytes:
        """A comment."""
        return b": recovering\n\n" if is_recovering else b": ping\n\n"

    def closing(self) -> bytes:
        """The mark of the end."""
        return b"data: [DONE]\n\n"

    def failure(self, error: HistrioError) -> bytes:
        """The error's text."""
        return b"data: " + encode({"error": str(error)[:MAX_MESSAGE_CHARS]}) + b"\n\n"

    def whole(self, texts: Sequence[str]) -> GeneratedText | GeneratedTexts:
        """All of it."""
        return self.result(self.generation.choices[0], texts[0])

    def result(self, choice: Choice, text: str) -> GeneratedText:
        """Of one prompt."""
        method = "speculative" if self.generation.num_drafted_tokens else "continuous_batching"
        return GeneratedText(text, choice.num_tokens, choice.elapsed_s, method)


class TextsAnswer(TextAnswer):
    """The texts of several."""

    def whole(self, texts: Sequence[str]) -> GeneratedTexts:
        """All of them."""
        results = [self.result(*each) for each in zip(self.generation.choices, texts, strict=True)]
        return GeneratedTexts(results, self.generation.timings.total_s, len(results))


GENERATE = Form(TextRequest, "gen-", prepare_text, TextAnswer, absent=_NOT_OF_TEXTS)
"""POST /v1/generate."""
GENERATE_BATCH = Form(TextsRequest, "gen-", prepare_texts, TextsAnswer, absent=_NOT_OF_BATCHES)
"""POST /v1/generate_batch."""
