"""One vector for each text of a request: submitting them a few at a time, and reading what comes."""

from __future__ import annotations

import time
from dataclasses import dataclass

import anyio
import numpy as np
import numpy.typing as npt

from histrio.contracts.gateway import Submission, TokenStream
from histrio.errors import HistrioError
from histrio.messages import Ask, Pooling
from histrio_api.answer.choice import require_no_error
from histrio_api.errors import GenerationFailed
from histrio_api.request.prompts import Prompt
from histrio_api.request.received import MAX_USER_CHARS, Arrival
from histrio_api.request_log import log_finished
from histrio_api.schemas.embeddings import TextsRequest, VectorUsage
from histrio_api.schemas.usage import CompletionTokensDetails, PromptTokensDetails, Usage
from histrio_api.shared.edge import Edge
from histrio_api.usage.counts import Counts

__all__ = ["Texts", "Vector", "pooled"]

Vector = npt.NDArray[np.float32]


@dataclass(slots=True)
class Texts:
    """The texts of one request, and what became of them."""

    request: TextsRequest
    arrival: Arrival
    prompts: list[Prompt]
    pooling: Pooling
    id: str = ""
    """What the request is called in the answer, in hooks and in the log."""
    num_cached_tokens: int = 0
    reading_s: float = 0.0
    """From the request's arrival until its texts were encoded."""

    @property
    def usage(self) -> VectorUsage:
        """Tokens of all texts."""
        num_tokens = sum(len(prompt.ids) for prompt in self.prompts)
        return VectorUsage(num_tokens, num_tokens)


async def pooled(edge: Edge, texts: Texts) -> list[Vector]:
    """[width] for each text, in their order. Raises `RequestError`, `Overloaded`, `EngineError`.

    However it ends, it is counted, and nothing of it goes on.
    """
    state = "cancelled"
    limits, num_tokens = edge.keys.limits_of(texts.arrival.key), texts.usage.total_tokens
    priority = limits.priority(texts.request.priority)
    reservation = limits.reserve(num_tokens)
    try:
        vectors = await _pooled(edge, texts, priority)
        state = "stop"
        return vectors
    except HistrioError as error:
        state = error.code or "internal_error"
        raise
    finally:
        reservation.settle(num_tokens)
        _count(edge, texts, state)


async def _pooled(edge: Edge, texts: Texts, priority: int) -> list[Vector]:
    found: dict[int, Vector] = {}
    errors: list[Exception] = []
    waiting = iter(enumerate(texts.prompts))

    async def work(scope: anyio.CancelScope) -> None:
        try:
            for at, prompt in waiting:
                (stream,) = edge.gateway.submit(_submission(texts, prompt, priority))
                found[at] = await _read(texts, stream)
        except Exception as error:
            errors.append(error)
            scope.cancel()

    async with anyio.create_task_group() as tasks:
        for _ in range(min(len(texts.prompts), _most_at_a_time(edge))):
            tasks.start_soon(work, tasks.cancel_scope)
    if errors:
        raise errors[0]
    return [found[at] for at in range(len(found))]


def _most_at_a_time(edge: Edge) -> int:
    limit = edge.gateway.status.max_unfinished_requests
    return min(edge.settings.max_inputs_at_a_time, limit) if limit else edge.settings.max_inputs_at_a_time


async def _read(texts: Texts, stream: TokenStream) -> Vector:
    try:
        async for delta in stream:
            require_no_error(delta)
            texts.num_cached_tokens += delta.extras.num_cached_tokens
            if delta.extras.pooled:
                return np.frombuffer(delta.extras.pooled, "<f4")
    finally:
        stream.cancel()
    raise GenerationFailed("the request ended without its vector")


def _submission(texts: Texts, prompt: Prompt, priority: int) -> Submission:
    request = texts.request
    user = request.user if isinstance(request.user, str) else ""
    return Submission(
        ids=prompt.ids,
        max_new_tokens=0,
        ask=Ask(priority=priority, pooling=texts.pooling, second_at=prompt.second_at),
        id=texts.id,
        key=texts.arrival.key,
        user=user[:MAX_USER_CHARS],
    )


def _count(edge: Edge, texts: Texts, state: str) -> None:
    elapsed_s = time.perf_counter() - texts.arrival.at_s
    num_tokens = texts.usage.prompt_tokens
    edge.count_usage(texts.arrival.key, Counts(1, num_tokens, texts.num_cached_tokens, 0))
    edge.metrics.count_finished(num_tokens, 0, elapsed_s)
    if edge.settings.log_requests:
        cached = PromptTokensDetails(texts.num_cached_tokens)
        usage = Usage(num_tokens, 0, num_tokens, cached, CompletionTokensDetails(0, 0, 0))
        log_finished(texts.id, edge.gateway.model.id, usage, [state], (None, elapsed_s))
