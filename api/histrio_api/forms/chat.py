"""Chats, as OpenAI has them: messages in; reasoning, text and tool calls out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import msgspec

from histrio.errors import RequestError
from histrio_api.answer.choice import Choice
from histrio_api.answer.chunks import Chunks, encode, ids_field, logprobs_field
from histrio_api.answer.generation import Generation
from histrio_api.answer.logprobs import chat_logprobs
from histrio_api.forms.custom_calls import CustomCalls, ToldPiece, told_calls
from histrio_api.forms.form import Form
from histrio_api.request.forced_calls import form_or_calls
from histrio_api.request.functions import with_tools
from histrio_api.request.ignored import IgnoredFields
from histrio_api.request.prepared import Prepared
from histrio_api.request.reasoning import chat_reasoning
from histrio_api.request.reasoning_budget import bounded_reasoning
from histrio_api.request.received import Received
from histrio_api.request.rendering import chat_prompt
from histrio_api.request.scores import Scores, wanted_scores
from histrio_api.request.structured import requested_grammar
from histrio_api.schemas.chat import AnswerMessage, ChatChoice, ChatCompletion, ChatRequest
from histrio_api.shared.edge import Edge
from histrio_api.text.answers import AnswerParser, AnswerParts, Parts

__all__ = ["CHAT", "ChatAnswer", "prepare_chat"]


def prepare_chat(edge: Edge, received: Received[ChatRequest]) -> Prepared:
    """From messages to one prompt, and how its answer is taken apart. Raises `RequestError`."""
    chat = with_tools(received.request)
    scores, num_wanted_tokens = _wanted_scores(edge, chat), _num_wanted_tokens(chat)
    prompt = chat_prompt(edge, chat, received.ignored)
    has_tools = bool(chat.tools) and chat.tool_choice != "none"
    parts = AnswerParts(
        reasoning=chat_reasoning(edge, chat, prompt),
        reasoning_format=edge.reasoning_format,
        tool_format=edge.tool_format if has_tools else None,
        schemas={each.function.name: each.function.parameters for each in chat.tools} if has_tools else {},
        custom_tools=frozenset(each.custom.name for each in chat.tools if each.custom is not None),
        hides_reasoning=not chat.shows_reasoning,
    )
    grammar = requested_grammar(
        edge, received, partial(form_or_calls, chat, edge.tool_format, edge.tokenizer.special_texts)
    )
    grammar = bounded_reasoning(edge, received, parts.reasoning, grammar)
    return Prepared(
        received=received,
        prompts=[prompt],
        prompt_param="messages",
        num_wanted_tokens=num_wanted_tokens,
        scores=scores,
        grammar=None if grammar is None else grammar.after(parts.reasoning, edge.reasoning_marks),
        parts=parts,
        begun=_begun_answer(chat, received.ignored),
        keeps_ids=chat.return_token_ids,
        hides_special=chat.skip_special_tokens and not any(map(edge.tokenizer.hides, parts.marks)),
    )


def _wanted_scores(edge: Edge, chat: ChatRequest) -> Scores:
    if chat.top_logprobs and not chat.logprobs:
        raise RequestError("top_logprobs: only allowed when logprobs is true", param="top_logprobs")

    asked = Scores(
        chat.top_logprobs if chat.logprobs else None,
        num_reported=chat.prompt_logprobs,
        leaves_out_reasoning=not chat.shows_reasoning,
        token_ids=chat.logprob_token_ids,
    )
    return wanted_scores(edge, asked, is_stream=chat.stream)


def _begun_answer(chat: ChatRequest, ignored: IgnoredFields) -> str:
    """What `echo` puts before the answer."""
    if not chat.echo:
        return ""
    last = chat.messages[-1]
    if last.role != "assistant":
        ignored.add("echo", "echo")
        return ""
    content = last.content or ""
    return content if isinstance(content, str) else "".join(part.text or "" for part in content)


def _num_wanted_tokens(chat: ChatRequest) -> int | None:
    old, new = chat.max_tokens, chat.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise RequestError("max_tokens: differs from max_completion_tokens; give one of them", param="max_tokens")

    return old if new is None else new


class ChatAnswer(Chunks[ChatChoice]):
    """A chat completion, or its chunks."""

    object_name = "chat.completion.chunk"

    def __init__(self, edge: Edge, prepared: Prepared, generation: Generation) -> None:
        super().__init__(edge, prepared, generation)
        self._parsers = [AnswerParser(prepared.parts) for _ in generation.choices]
        self._begun = prepared.begun
        self._custom_names = prepared.parts.custom_tools
        self._custom_calls = [CustomCalls(self._custom_names) for _ in generation.choices]

    def opening(self) -> bytes:
        """A first chunk for each choice, with the role that speaks."""
        delta = b'"delta":{"role":"assistant","content":""},"logprobs":null'
        choices = self.generation.choices
        ids = ids_field(b"prompt_token_ids", choices[0].prompt.ids) if choices[0].keeps_ids else b""
        begun = [self.text(each, self._begun) for each in choices] if self._begun else []
        return b"".join([*(self.chunk(choice, delta + ids) for choice in choices), *begun])

    def piece(self, choice: Choice, text: str) -> bytes:
        """A chunk for each thing that the piece turns out to be."""
        parser = self._parsers[choice.index]
        parts = parser.push(text, is_last=bool(choice.finish_reason))
        shown, calls = parts.text, parts.calls
        events = [self._reasoning(choice, parts.reasoning)] if parts.reasoning else []
        # Log probabilities of reasoning and calls go out as they come.
        if shown or choice.has_logprobs:
            events.append(self.text(choice, shown))
        if calls or choice.finish_reason:
            at = parser.num_calls - sum(bool(each.name) for each in calls) - 1
            for each in self._custom_calls[choice.index].take(calls, is_last=bool(choice.finish_reason)):
                at += bool(each.piece.name)
                events.append(self._tool_call(choice, each, at))
        if choice.finish_reason:
            end = encode(_finish_reason(choice, parser))
            events.append(self.chunk(choice, b'"delta":{},"logprobs":null', end))
        return b"".join(events)

    def text(self, choice: Choice, text: str) -> bytes:
        """More of the answer, with the log probabilities that go out with it."""
        logprobs = b'},"logprobs":null' if choice.logprobs is None else b"}" + logprobs_field(choice, chat_logprobs)
        return self.chunk(choice, b'"delta":{"content":' + encode(text) + logprobs)

    def whole(self, texts: Sequence[str]) -> ChatCompletion:
        """All choices with their messages."""
        generation = self.generation
        return ChatCompletion(
            id=generation.id,
            created=generation.created,
            model=self.model,
            choices=self.choices(texts),
            usage=generation.usage,
            system_fingerprint=self.fingerprint,
            prompt_logprobs=generation.choices[0].prompt_logprobs,
            prompt_token_ids=generation.choices[0].prompt_ids,
        )

    def choice(self, choice: Choice, text: str) -> ChatChoice:
        """One of them, with its message."""
        parser = self._parsers[choice.index]
        logprobs = None if choice.logprobs is None else chat_logprobs(choice.logprobs.take_shown())
        message = _message(parser.push(text, is_last=True), self._custom_names)
        if self._begun:
            message.content = self._begun + (message.content or "")
        reason = _finish_reason(choice, parser)
        ids = choice.take_ids() if choice.keeps_ids else msgspec.UNSET
        return ChatChoice(index=choice.index, finish_reason=reason, message=message, logprobs=logprobs, token_ids=ids)

    def _reasoning(self, choice: Choice, text: str) -> bytes:
        return self.chunk(choice, b'"delta":{"reasoning_content":' + encode(text) + b'},"logprobs":null')

    def _tool_call(self, choice: Choice, told: ToldPiece, at: int) -> bytes:
        """A piece of the `at`-th tool call of the choice."""
        piece, kind, field = told.piece, "function", "arguments"
        if told.is_custom:
            kind, field = "custom", "input"
        said = {field: piece.arguments}
        delta: dict[str, Any] = {"index": at, kind: said}
        if piece.name:
            delta |= {"id": piece.id, "type": kind, kind: {"name": piece.name} | said}
        return self.chunk(choice, b'"delta":{"tool_calls":[' + encode(delta) + b']},"logprobs":null')


def _message(parts: Parts, custom_names: Collection[str]) -> AnswerMessage:
    message = AnswerMessage(parts.text)
    if parts.reasoning:
        message.reasoning_content = parts.reasoning
    if parts.calls:
        message.tool_calls = told_calls(parts.calls, custom_names)
        message.content = parts.text.strip()
    if parts.reasoning or parts.calls:
        message.content = message.content or None
    return message


def _finish_reason(choice: Choice, parser: AnswerParser) -> str:
    """An answer with calls that came to its own end stopped for them."""
    return "tool_calls" if parser.num_calls and choice.finish_reason == "stop" else choice.finish_reason


CHAT = Form(ChatRequest, "chatcmpl-", prepare_chat, ChatAnswer)
"""POST /v1/chat/completions."""
