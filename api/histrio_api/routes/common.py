"""What the two generating routes share: reading the request, answering at once or as a stream."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import anyio
import msgspec
from litestar import Request
from litestar.response.base import ASGIResponse

from histrio.messages import Thinking
from histrio_api.answer.choice import Choice
from histrio_api.answer.generation import Generation, run_choices
from histrio_api.answer.sse import EventStream, Write, error_event
from histrio_api.errors import STATUS_CLIENT_LEFT, error_body, presentable
from histrio_api.request.body import received_body
from histrio_api.request.enforceable import require_enforceable
from histrio_api.request.received import Received, receive
from histrio_api.request.structured import wanted_grammar
from histrio_api.request.wanted import WantedGrammar
from histrio_api.routes.auth import KEY_LABEL
from histrio_api.schemas.generation import GenerationRequest
from histrio_api.shared.edge import Edge

__all__ = [
    "HttpRequest",
    "answer_at_once",
    "edge_of",
    "json_response",
    "read_request",
    "request_body",
    "stream_events",
    "whole_answer",
    "with_grammar",
]

HttpRequest = Request[Any, Any, Any]
R = TypeVar("R", bound=GenerationRequest)


def edge_of(request: HttpRequest) -> Edge:
    """The endpoint's shared state."""
    edge: Edge = request.app.state.edge
    return edge


def json_response(content: Any, headers: dict[str, str] | None = None) -> ASGIResponse:
    """A 200 with `content` as JSON."""
    return ASGIResponse(body=msgspec.json.encode(content), headers=headers)


async def whole_answer(edge: Edge, generation: Generation, content: Callable[[], Any]) -> ASGIResponse:
    """A 200 with what `content` makes as JSON."""
    body = await edge.run_answer(lambda: msgspec.json.encode(content()), generation.num_scored_tokens)
    return ASGIResponse(body=body, headers={"x-request-id": generation.id})


def request_body(request: HttpRequest) -> AbstractAsyncContextManager[bytes]:
    """The request's body, for as long as it is worked on."""
    edge = edge_of(request)
    return received_body(request, edge.body_room, edge.settings.max_body_bytes)


async def read_request(request: HttpRequest, body: bytes, kind: type[R]) -> Received[R]:
    """The checked request; the form of its answer is checked once its prompt is there.

    Raises `RequestError`, and `EngineError` while nothing can be generated.
    """
    edge = edge_of(request)
    received = await edge.run_text(partial(receive, edge, body, kind, time.perf_counter()), len(body))
    return replace(received, key=str(request.scope.get(KEY_LABEL, "")))


async def with_grammar(request: HttpRequest, received: Received[R], thinking: Callable[[], Thinking]) -> Received[R]:
    """The request with the form that it asks for, checked; `thinking` is asked only if there is one."""
    edge = edge_of(request)
    wanted = await edge.run_text(partial(_wanted_grammar, edge, received, thinking), received.num_body_bytes)
    if wanted is None:
        return received

    await require_enforceable(edge, wanted, request.receive)
    return replace(received, grammar=wanted.spec)


def _wanted_grammar(edge: Edge, received: Received[Any], thinking: Callable[[], Thinking]) -> WantedGrammar | None:
    wanted = wanted_grammar(
        received.request,
        received.sampling,
        edge.gateway.model.grammar_kinds,
        honoured_by=edge.honoured_by,
        special_texts=edge.tokenizer.special_texts,
    )
    if wanted is None:
        return None
    spec = msgspec.structs.replace(wanted.spec, thinking=thinking())
    return msgspec.structs.replace(wanted, spec=spec)


async def answer_at_once(request: HttpRequest, generation: Generation) -> list[str] | None:
    """Run all choices to their end: their texts, or None if the client left before it, which cancels them."""
    pieces: list[list[str]] = [[] for _ in generation.choices]

    async def show(choice: Choice, text: str) -> None:
        pieces[choice.index].append(text)

    error: Exception | None = None
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_when_client_leaves, request, tasks.cancel_scope)
            error = await _run(generation, show)
            tasks.cancel_scope.cancel()
    finally:
        generation.close()
    if error is not None:
        raise error

    finished = all(choice.finish_reason for choice in generation.choices)
    edge_of(request).metrics.count_request(request.scope["path"], 200 if finished else STATUS_CLIENT_LEFT)
    return ["".join(parts) for parts in pieces] if finished else None


def stream_events(
    request: HttpRequest, generation: Generation, produce: Callable[[Write], Awaitable[None]]
) -> EventStream:
    """The response that streams what `produce` writes; an error on the way becomes the last event."""
    edge = edge_of(request)
    source = _GenerationEvents(generation, produce, partial(edge.metrics.count_request, request.scope["path"]))
    return EventStream(source, keep_alive_s=edge.settings.keep_alive_s, headers={"x-request-id": generation.id})


class _GenerationEvents:
    """The event source of a generation; `count` is told the status when all is over."""

    def __init__(
        self, generation: Generation, produce: Callable[[Write], Awaitable[None]], count: Callable[[int], None]
    ) -> None:
        self._generation = generation
        self._produce = produce
        self._count = count
        self._status = 200

    async def produce(self, write: Write) -> None:
        """All events; the headers are out, so an error has to be one of them."""
        try:
            await self._produce(write)
        except Exception as error:
            shown = presentable(error)
            self._status = shown.status
            await write(error_event(error_body(shown)))

    def comment(self) -> bytes:
        """Whether a failed process is being replaced."""
        return b"recovering" if self._generation.is_recovering else b"ping"

    def close(self, is_complete: bool) -> None:
        """Cancel what still runs, and count the request."""
        self._generation.close()
        self._count(self._status if is_complete else STATUS_CLIENT_LEFT)


async def _run(generation: Generation, show: Callable[[Choice, str], Awaitable[None]]) -> Exception | None:
    """Errors are returned: raised, the task group would wrap them."""
    try:
        await run_choices(generation, show)
    except Exception as error:
        return error
    return None


async def _cancel_when_client_leaves(request: HttpRequest, scope: anyio.CancelScope) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
