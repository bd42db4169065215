"""POST /v1/completions."""

from __future__ import annotations

from functools import partial

from litestar import post
from litestar.response.base import ASGIResponse

from histrio_api.choice import Choice
from histrio_api.edge import Edge
from histrio_api.generation import Generation, run_choices, start_generation
from histrio_api.logprobs import completion_logprobs
from histrio_api.prompts import completion_prompts
from histrio_api.routes.common import (
    HttpRequest,
    answer_at_once,
    edge_of,
    json_response,
    read_request,
    stream_events,
)
from histrio_api.schemas import Completion, CompletionChoice, CompletionRequest
from histrio_api.sse import DONE, CompletionChunks, Write

__all__ = ["completions"]


@post("/v1/completions", status_code=200)
async def completions(request: HttpRequest) -> ASGIResponse:
    """Continue one or several prompts, at once or as a stream."""
    edge = edge_of(request)
    received = await read_request(request, CompletionRequest)
    wanted = received.request
    prompts = await edge.run_text(partial(completion_prompts, edge, wanted), received.num_body_bytes)
    generation = start_generation(edge, received, prompts, wanted.max_tokens)
    if wanted.stream:
        return _stream(request, wanted, generation)

    return await _answer(request, edge, wanted, generation)


async def _answer(request: HttpRequest, edge: Edge, wanted: CompletionRequest, generation: Generation) -> ASGIResponse:
    pieces = [[_echo(edge, choice)] if wanted.echo else [] for choice in generation.choices]

    async def show(choice: Choice, text: str) -> None:
        pieces[choice.index].append(text)

    if not await answer_at_once(request, generation, show):
        return ASGIResponse()  # nobody reads it

    choices = [
        _completion_choice(choice, "".join(parts)) for choice, parts in zip(generation.choices, pieces, strict=True)
    ]
    content = Completion(
        id=generation.id,
        created=generation.created,
        model=edge.gateway.model.id,
        choices=choices,
        usage=generation.usage,
        system_fingerprint=edge.fingerprint,
    )
    return json_response(content, {"x-request-id": generation.id})


def _completion_choice(choice: Choice, text: str) -> CompletionChoice:
    logprobs = None if choice.logprobs is None else completion_logprobs(choice.logprobs.take_shown())
    return CompletionChoice(choice.index, text, choice.finish_reason, logprobs)


def _stream(request: HttpRequest, wanted: CompletionRequest, generation: Generation) -> ASGIResponse:
    edge = edge_of(request)
    options = wanted.stream_options
    chunks = CompletionChunks(generation, edge.gateway.model.id, edge.fingerprint, options.usage_stats)

    async def produce(write: Write) -> None:
        async def show(choice: Choice, text: str) -> None:
            await write(chunks.text(choice, text))

        if wanted.echo:
            await write(b"".join(chunks.text(choice, _echo(edge, choice)) for choice in generation.choices))
        await run_choices(generation, show)
        await write(chunks.usage() + DONE if options.include_usage else DONE)

    return stream_events(request, generation, produce)


def _echo(edge: Edge, choice: Choice) -> str:
    """The prompt as text: what the client gave, or what its ids mean."""
    prompt = choice.prompt
    return edge.tokenizer.decode(prompt.ids) if prompt.text is None else prompt.text
