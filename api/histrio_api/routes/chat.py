"""POST /v1/chat/completions."""

from __future__ import annotations

from functools import partial

from litestar import post
from litestar.response.base import ASGIResponse

from histrio.contracts.grammar import THOUGHT_CLOSE
from histrio.errors import RequestError
from histrio_api.answer.choice import Choice
from histrio_api.answer.generation import Generation, run_choices, start_generation
from histrio_api.answer.logprobs import chat_logprobs
from histrio_api.answer.sse import DONE, ChatChunks, Write
from histrio_api.request.prompts import chat_prompt
from histrio_api.request.thinking import chat_thinking
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
from histrio_api.schemas.chat import AnswerMessage, ChatChoice, ChatCompletion, ChatRequest
from histrio_api.shared.edge import Edge
from histrio_api.text.answers import AnswerParser
from histrio_api.text.template_forms import FINAL_CHANNEL
from histrio_api.text.tools import CALL_OPEN

__all__ = ["chat_completions"]


@post("/v1/chat/completions", status_code=200)
async def chat_completions(request: HttpRequest) -> ASGIResponse:
    """Answer a chat, at once or as a stream."""
    edge = edge_of(request)
    async with request_body(request) as body:
        received = await read_request(request, body, ChatRequest)
        chat = received.request
        wanted = _num_wanted(chat)
        prompt = await edge.run_text(partial(chat_prompt, edge, chat), received.num_body_bytes)
    has_tools = bool(chat.tools) and chat.tool_choice != "none"
    thinking = chat_thinking(edge, chat, prompt)
    received = await with_grammar(request, received, lambda: thinking)
    has_channels = edge.template is not None and edge.template.has_channels
    marks = [CALL_OPEN] * has_tools + [THOUGHT_CLOSE] * (thinking != "never") + [FINAL_CHANNEL] * has_channels
    if any(map(edge.tokenizer.hides, marks)):
        chat.skip_special_tokens = False
    generation = start_generation(edge, received, [prompt], wanted)
    with generation.closed_on_error():
        parsers = [AnswerParser(thinking, has_tools, has_channels) for _ in generation.choices]
        if chat.stream:
            return _stream(request, chat, generation, parsers)

        return await _answer(request, edge, generation, parsers)


async def _answer(
    request: HttpRequest, edge: Edge, generation: Generation, parsers: list[AnswerParser]
) -> ASGIResponse:
    texts = await answer_at_once(request, generation)
    if texts is None:
        return ASGIResponse()  # nobody reads it

    return await whole_answer(edge, generation, partial(_completion, edge, generation, texts, parsers))


def _completion(edge: Edge, generation: Generation, texts: list[str], parsers: list[AnswerParser]) -> ChatCompletion:
    choices = [_chat_choice(*each) for each in zip(generation.choices, texts, parsers, strict=True)]
    return ChatCompletion(
        id=generation.id,
        created=generation.created,
        model=edge.gateway.model.id,
        choices=choices,
        usage=generation.usage,
        system_fingerprint=edge.fingerprint,
        prompt_logprobs=generation.choices[0].prompt_logprobs,
    )


def _chat_choice(choice: Choice, text: str, parser: AnswerParser) -> ChatChoice:
    logprobs = None if choice.logprobs is None else chat_logprobs(choice.logprobs.take_shown())
    parts = parser.push(text, is_last=True)
    message = AnswerMessage(parts.text)
    if parts.thought:
        message.reasoning_content = parts.thought
    if parts.calls:
        message.tool_calls = parts.calls
        message.content = parts.text.strip()
    if parts.thought or parts.calls:
        message.content = message.content or None
    return ChatChoice(choice.index, message, _finish_reason(choice, parser), logprobs)


def _stream(
    request: HttpRequest, chat: ChatRequest, generation: Generation, parsers: list[AnswerParser]
) -> ASGIResponse:
    edge = edge_of(request)
    options = chat.stream_options
    chunks = ChatChunks(generation, edge.gateway.model.id, edge.fingerprint, options.usage_stats)

    async def produce(write: Write) -> None:
        async def show(choice: Choice, text: str) -> None:
            if events := _events(chunks, choice, text, parsers[choice.index]):
                await write(events)

        await write(b"".join(map(chunks.opening, generation.choices)))
        await run_choices(generation, show)
        await write(chunks.usage() + DONE if options.include_usage else DONE)

    return stream_events(request, generation, produce)


def _events(chunks: ChatChunks, choice: Choice, text: str, parser: AnswerParser) -> bytes:
    num_before = parser.num_calls
    parts = parser.push(text, is_last=bool(choice.finish_reason))
    events = [chunks.thought(choice, parts.thought)] if parts.thought else []
    # Log probabilities of thoughts and calls go out as they come; a call itself waits until it is whole.
    if parts.text or choice.has_logprobs:
        events.append(chunks.text(choice, parts.text))
    events += [chunks.tool_call(choice, call, num_before + at) for at, call in enumerate(parts.calls)]
    if choice.finish_reason:
        events.append(chunks.finish(choice, _finish_reason(choice, parser)))
    return b"".join(events)


def _finish_reason(choice: Choice, parser: AnswerParser) -> str:
    """An answer with calls that came to its own end stopped for them."""
    return "tool_calls" if parser.num_calls and choice.finish_reason == "stop" else choice.finish_reason


def _num_wanted(chat: ChatRequest) -> int | None:
    old, new = chat.max_tokens, chat.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise RequestError("max_tokens: differs from max_completion_tokens; give one of them", param="max_tokens")

    return old if new is None else new
