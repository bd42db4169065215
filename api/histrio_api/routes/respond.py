"""The way of a generating request, whatever its form: body, prompts, generation, answer."""

from __future__ import annotations

import time
from functools import partial
from typing import TypeVar

import anyio
import msgspec

from histrio_api.answer.choice import Choice
from histrio_api.answer.generation import Generation, run_choices, start_generation
from histrio_api.answer.sse import EventStream, Write
from histrio_api.errors import STATUS_CLIENT_LEFT, presentable
from histrio_api.forms.form import Answer, Form
from histrio_api.http.response import Response
from histrio_api.request.attended import WhileAttended
from histrio_api.request.enforceable import require_enforceable
from histrio_api.request.ignored import ignored_headers
from histrio_api.request.prepared import Prepared
from histrio_api.request.received import Arrival, receive
from histrio_api.routes.common import HttpRequest, is_strict, request_body
from histrio_api.schemas.generation import GenerationRequest
from histrio_api.usage.counts import Counts

__all__ = ["respond"]

R = TypeVar("R", bound=GenerationRequest)


async def respond(request: HttpRequest, form: Form[R]) -> Response:
    """Answer a request of this form. Raises what it cannot be answered for."""
    edge = request.state
    prepared = await _prepare(request, form)
    if prepared.grammar is not None:
        await require_enforceable(edge, prepared.grammar, prepared.received.ignored, request.receive)
    generation = start_generation(edge, prepared, form.id_prefix)
    with generation:
        limits = edge.keys.limits_of(prepared.received.key)
        headers = {
            "x-request-id": generation.id,
            **limits.headers(),
            **ignored_headers(edge, prepared.received.ignored),
        }
        answer = form.answer(edge, prepared, generation)
        if prepared.received.request.stream:
            source = _Events(request, generation, answer)
            keep_alive_s = edge.settings.keep_alive_s
            return EventStream(source, media_type=form.media_type, keep_alive_s=keep_alive_s, headers=headers)

        return await _answer_at_once(request, generation, answer, headers)


async def _prepare(request: HttpRequest, form: Form[R]) -> Prepared:
    """From the body to prompts, which keeps room for the body until they are there."""
    edge, key = request.state, request.sender
    async with request_body(request) as body:
        arrival = Arrival(time.perf_counter(), key, is_strict(request))

        def work() -> Prepared:
            return form.prepare(edge, receive(edge, body, form.schema, arrival))

        return await edge.run_text(work, len(body) + form.num_named_bytes(edge, key, body))


async def _answer_at_once(
    request: HttpRequest, generation: Generation, answer: Answer, headers: dict[str, str]
) -> Response:
    texts = await _whole_texts(request, generation)
    if texts is None:
        generation.close()
        return Response()  # the client has left

    edge = request.state
    body = await edge.run_answer(lambda: msgspec.json.encode(answer.whole(texts)), generation.num_scored_tokens)
    if generation.late:
        source = _LateBody(generation, body)
        keep_alive_s = edge.settings.keep_alive_s
        return EventStream(source, media_type="application/json", keep_alive_s=keep_alive_s, headers=headers)

    generation.close()
    return Response(body, headers=headers)


async def _whole_texts(request: HttpRequest, generation: Generation) -> list[str] | None:
    """Run all choices to their end: their texts, or None if the client left before it, which cancels them."""
    pieces: list[list[str]] = [[] for _ in generation.choices]

    async def show(choice: Choice, text: str) -> None:
        pieces[choice.index].append(text)

    try:
        with WhileAttended(request):
            await run_choices(generation, show)
    finally:
        generation.close(is_sent=False)
    finished = all(choice.finish_reason for choice in generation.choices)
    request.state.metrics.count_request(request.path, 200 if finished else STATUS_CLIENT_LEFT)
    return ["".join(parts) for parts in pieces] if finished else None


class _LateBody:
    """An answer as a whole, of which parts are made while it is sent."""

    def __init__(self, generation: Generation, body: bytes) -> None:
        self._generation = generation
        self._body = body

    async def produce(self, write: Write) -> bytes:
        """All of it."""
        async for piece in self._generation.late.filled(self._body):
            await write(piece, has_more=True)
        return b""

    def waiting(self) -> bytes:
        """Nothing, as nothing may come between."""
        return b""

    def close(self, is_complete: bool) -> None:
        """Give back what it held."""
        self._generation.close()


class _Events:
    """The events of one request."""

    def __init__(self, request: HttpRequest, generation: Generation, answer: Answer) -> None:
        self._edge = request.state
        self._path = request.path
        self._sender = request.sender
        self._generation = generation
        self._answer = answer
        self._status = 200

    async def produce(self, write: Write) -> bytes:
        """All events; the headers are out, so an error has to be one of them."""
        try:
            return await self._produce(write)
        except Exception as error:
            shown = presentable(error)
            self._status = shown.status
            self._edge.count_usage(self._sender, Counts(errors=1))
            return self._answer.failure(shown)

    def waiting(self) -> bytes:
        """As the form has it."""
        return self._answer.waiting(is_recovering=self._generation.is_recovering)

    def close(self, is_complete: bool) -> None:
        """Cancel what still runs, and count the request."""
        self._generation.close()
        self._edge.metrics.count_request(self._path, self._status if is_complete else STATUS_CLIENT_LEFT)

    async def _produce(self, write: Write) -> bytes:
        edge, answer = self._edge, self._answer
        writing = anyio.Lock(fast_acquire=True)  # choices are read side by side, and their events come in pieces

        async def show(choice: Choice, text: str) -> None:
            if choice.logprobs is None:
                events = answer.piece(choice, text)
            else:
                # The first chunk behind an echoed prompt has the entries of all of it.
                events = await edge.run_answer(partial(answer.piece, choice, text), choice.num_shown_logprobs)
            if not events:
                return
            if choice.logprobs is None:
                await write(events)
                return
            async with writing:
                await self._write_filled(write, events)

        await write(answer.opening())  # the headers go out with it, also with an empty one
        await run_choices(self._generation, show)
        return answer.closing()

    async def _write_filled(self, write: Write, events: bytes) -> None:
        last = b""
        async for piece in self._generation.late.filled(events):
            if last:
                await write(last, has_more=True)
            last = piece
        await write(last)
