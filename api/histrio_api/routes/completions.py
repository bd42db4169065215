"""POST /v1/completions."""

from __future__ import annotations

from functools import partial

import msgspec
from litestar import post
from litestar.response.base import ASGIResponse

from histrio.errors import RequestError
from histrio_api.answer.choice import Choice
from histrio_api.answer.generation import Generation, run_choices, start_generation
from histrio_api.answer.logprobs import completion_logprobs
from histrio_api.answer.sse import DONE, CompletionChunks, Write
from histrio_api.request.prompts import completion_prompts
from histrio_api.request.thinking import completion_thinking
from histrio_api.routes.common import (
    HttpRequest,
    answer_at_once,
    edge_of,
    read_request,
    request_body,
    stream_events,
    whole_answer,
    with_grammar,
)
from histrio_api.schemas.completions import Completion, CompletionChoice, CompletionRequest
from histrio_api.shared.edge import Edge

__all__ = ["completions"]


@post("/v1/completions", status_code=200)
async def completions(request: HttpRequest) -> ASGIResponse:
    """Continue one or several prompts, at once or as a stream."""
    edge = edge_of(request)
    async with request_body(request) as body:
        received = await read_request(request, body, CompletionRequest)
        wanted = received.request
        _check_length(wanted)
        prompts = await edge.run_text(partial(completion_prompts, edge, wanted), received.num_body_bytes)
    received = await with_grammar(request, received, partial(completion_thinking, edge, wanted))
    generation = start_generation(edge, received, prompts, wanted.max_tokens)
    with generation.closed_on_error():
        if wanted.stream:
            return _stream(request, wanted, generation)

        return await _answer(request, edge, generation)


async def _answer(request: HttpRequest, edge: Edge, generation: Generation) -> ASGIResponse:
    texts = await answer_at_once(request, generation)
    if texts is None:
        return ASGIResponse()  # nobody reads it

    return await whole_answer(edge, generation, partial(_completion, edge, generation, texts))


def _completion(edge: Edge, generation: Generation, texts: list[str]) -> Completion:
    choices = [_completion_choice(choice, text) for choice, text in zip(generation.choices, texts, strict=True)]
    return Completion(
        id=generation.id,
        created=generation.created,
        model=edge.gateway.model.id,
        choices=choices,
        usage=generation.usage,
        system_fingerprint=edge.fingerprint,
    )


def _completion_choice(choice: Choice, text: str) -> CompletionChoice:
    logprobs = None
    if choice.logprobs is not None:  # encoded for each choice alone, since encoding holds the interpreter's lock
        logprobs = msgspec.Raw(msgspec.json.encode(completion_logprobs(choice.logprobs.take_shown())))
    return CompletionChoice(choice.index, text, choice.finish_reason, logprobs, choice.prompt_logprobs)


def _stream(request: HttpRequest, wanted: CompletionRequest, generation: Generation) -> ASGIResponse:
    edge = edge_of(request)
    options = wanted.stream_options
    chunks = CompletionChunks(generation, edge.gateway.model.id, edge.fingerprint, options.usage_stats)

    async def produce(write: Write) -> None:
        async def show(choice: Choice, text: str) -> None:
            # The first chunk behind an echoed prompt has the entries of all of it.
            await write(await edge.run_answer(partial(chunks.text, choice, text), choice.num_shown_logprobs))

        await run_choices(generation, show)
        await write(chunks.usage() + DONE if options.include_usage else DONE)

    return stream_events(request, generation, produce)


def _check_length(wanted: CompletionRequest) -> None:
    """No answer at all is only wanted for what is told of the prompt."""
    if wanted.max_tokens == 0 and not wanted.echo and wanted.prompt_logprobs is None:
        raise RequestError("max_tokens: 0 is only allowed with echo or prompt_logprobs", param="max_tokens")
