"""POST /v1/chat/completions."""

from __future__ import annotations

from functools import partial

from litestar import post
from litestar.response.base import ASGIResponse

from histrio.errors import RequestError
from histrio_api.choice import Choice
from histrio_api.edge import Edge
from histrio_api.generation import Generation, run_choices, start_generation
from histrio_api.logprobs import chat_logprobs
from histrio_api.prompts import chat_prompt
from histrio_api.routes.common import (
    HttpRequest,
    answer_at_once,
    edge_of,
    json_response,
    read_request,
    stream_events,
)
from histrio_api.schemas import AnswerMessage, ChatChoice, ChatCompletion, ChatRequest
from histrio_api.sse import DONE, ChatChunks, Write
from histrio_api.text.tools import CALL_OPEN, ToolCallParser

__all__ = ["chat_completions"]


@post("/v1/chat/completions", status_code=200)
async def chat_completions(request: HttpRequest) -> ASGIResponse:
    """Answer a chat, at once or as a stream."""
    edge = edge_of(request)
    received = await read_request(request, ChatRequest)
    chat = received.request
    wanted = _num_wanted(chat)
    has_tools = bool(chat.tools) and chat.tool_choice == "auto"
    if has_tools and edge.tokenizer.hides(CALL_OPEN):
        chat.skip_special_tokens = False
    prompt = await edge.run_text(partial(chat_prompt, edge, chat), received.num_body_bytes)
    generation = start_generation(edge, received, [prompt], wanted)
    if chat.stream:
        return _stream(request, chat, generation, has_tools)

    return await _answer(request, edge, generation, has_tools)


async def _answer(request: HttpRequest, edge: Edge, generation: Generation, has_tools: bool) -> ASGIResponse:
    pieces: list[list[str]] = [[] for _ in generation.choices]

    async def show(choice: Choice, text: str) -> None:
        pieces[choice.index].append(text)

    if not await answer_at_once(request, generation, show):
        return ASGIResponse()  # nobody reads it

    texts = ["".join(parts) for parts in pieces]
    choices = [_chat_choice(choice, text, has_tools) for choice, text in zip(generation.choices, texts, strict=True)]
    content = ChatCompletion(
        id=generation.id,
        created=generation.created,
        model=edge.gateway.model.id,
        choices=choices,
        usage=generation.usage,
        system_fingerprint=edge.fingerprint,
    )
    return json_response(content, {"x-request-id": generation.id})


def _chat_choice(choice: Choice, text: str, has_tools: bool) -> ChatChoice:
    logprobs = None if choice.logprobs is None else chat_logprobs(choice.logprobs.take_shown())
    message, finish_reason = AnswerMessage(text), choice.finish_reason
    if has_tools:
        message, finish_reason = _with_calls(text, finish_reason)
    return ChatChoice(choice.index, message, finish_reason, logprobs)


def _with_calls(text: str, finish_reason: str) -> tuple[AnswerMessage, str]:
    """The calls taken out of an answer's text; without any it stays as it is."""
    parser = ToolCallParser()
    shown, calls = parser.push(text)
    rest, last_calls = parser.flush()
    shown, calls = (shown + rest).strip(), calls + last_calls
    if not calls:
        return AnswerMessage(text), finish_reason

    return AnswerMessage(shown or None, tool_calls=calls), _ended_by_calls(finish_reason)


def _stream(request: HttpRequest, chat: ChatRequest, generation: Generation, has_tools: bool) -> ASGIResponse:
    edge = edge_of(request)
    options = chat.stream_options
    chunks = ChatChunks(generation, edge.gateway.model.id, edge.fingerprint, options.usage_stats)
    parsers = [ToolCallParser() for _ in generation.choices] if has_tools else []

    async def produce(write: Write) -> None:
        async def show(choice: Choice, text: str) -> None:
            if parsers:
                events = _tool_events(chunks, choice, text, parsers[choice.index])
            else:
                events = _events(chunks, choice, text)
            if events:
                await write(events)

        await write(b"".join(map(chunks.opening, generation.choices)))
        await run_choices(generation, show)
        await write(chunks.usage() + DONE if options.include_usage else DONE)

    return stream_events(request, generation, produce)


def _events(chunks: ChatChunks, choice: Choice, text: str) -> bytes:
    if not choice.finish_reason:
        return chunks.text(choice, text)

    finish = chunks.finish(choice, choice.finish_reason)
    return chunks.text(choice, text) + finish if text or choice.has_logprobs else finish


def _tool_events(chunks: ChatChunks, choice: Choice, text: str, parser: ToolCallParser) -> bytes:
    num_before = parser.num_calls
    shown, calls = parser.push(text)
    if choice.finish_reason:
        rest, last_calls = parser.flush()
        shown, calls = shown + rest, calls + last_calls
    # Log probabilities of a call's tokens go out as they come; the call itself waits until it is whole.
    events = [chunks.text(choice, shown)] if shown or choice.has_logprobs else []
    events += [chunks.tool_call(choice, call, num_before + at) for at, call in enumerate(calls)]
    if choice.finish_reason:
        reason = _ended_by_calls(choice.finish_reason) if parser.num_calls else choice.finish_reason
        events.append(chunks.finish(choice, reason))
    return b"".join(events)


def _ended_by_calls(finish_reason: str) -> str:
    """An answer with calls that came to its own end stopped for them."""
    return "tool_calls" if finish_reason == "stop" else finish_reason


def _num_wanted(chat: ChatRequest) -> int | None:
    old, new = chat.max_tokens, chat.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise RequestError("max_tokens: differs from max_completion_tokens; give one of them", param="max_tokens")

    return old if new is None else new
