"""Messages, as Anthropic has them: turns of blocks in; thinking, text and calls of tools out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from histrio.contracts.tool_format import CallPiece
from histrio.errors import HistrioError
from histrio_api.answer.choice import Choice
from histrio_api.answer.chunks import encode
from histrio_api.answer.generation import Generation
from histrio_api.error_shapes import anthropic_error
from histrio_api.forms.anthropic_chat import NOT_OF_MESSAGES, to_chat
from histrio_api.forms.chat import prepare_chat
from histrio_api.forms.form import Form
from histrio_api.request.prepared import Prepared
from histrio_api.request.prompts import counted_ids
from histrio_api.request.received import Received
from histrio_api.request.rendering import chat_text
from histrio_api.schemas.anthropic import (
    AnsweredBlock,
    AnsweredMessage,
    CountTokensRequest,
    MessagesRequest,
    MessageUsage,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
)
from histrio_api.schemas.chat import CalledTool
from histrio_api.shared.edge import Edge
from histrio_api.text.answers import AnswerParser, Parts, called_tools
from histrio_api.text.call_arguments import as_object

__all__ = ["MESSAGE", "MessageAnswer", "count_message_tokens", "prepare_message"]


def prepare_message(edge: Edge, received: Received[MessagesRequest]) -> Prepared:
    """From turns to one prompt. Raises `RequestError`."""
    return prepare_chat(edge, to_chat(received))


def count_message_tokens(edge: Edge, received: Received[CountTokensRequest]) -> int:
    """How many tokens the prompt has, also where the context cannot hold them. Raises `RequestError`."""
    chat = to_chat(received).request
    text = chat_text(edge, chat, received.ignored)
    return len(counted_ids(edge, text, "messages", add_special=chat.add_special_tokens))


class MessageAnswer:
    """A message, or the events of its blocks."""

    def __init__(self, edge: Edge, prepared: Prepared, generation: Generation) -> None:
        self._generation = generation
        self._model = edge.gateway.model.id
        self._max_tokens = prepared.received.request.max_tokens or 0
        self._parser = AnswerParser(prepared.parts)
        self._blocks = _BlockEvents()

    def opening(self) -> bytes:
        """The message without content; what of the prompt is in the prefix cache is not known yet."""
        message = AnsweredMessage(self._generation.id, self._model, [], self._usage)
        return _event("message_start", message=message)

    def piece(self, choice: Choice, text: str) -> bytes:
        """An event for each thing that the piece turns out to be, and for each block that begins or ends."""
        parts = self._parser.push(text, is_last=bool(choice.finish_reason))
        return b"".join(self._blocks.take(parts))

    def waiting(self, *, is_recovering: bool) -> bytes:
        """The same whatever is waited for."""
        return _event("ping")

    def closing(self) -> bytes:
        """The end of the last block, why the message ends and what it took, and its end."""
        delta = {"stop_reason": self._stop_reason, "stop_sequence": self._stop_sequence}
        last = _event("message_delta", delta=delta, usage=self._usage) + _event("message_stop")
        return b"".join(self._blocks.end()) + last

    def failure(self, error: HistrioError) -> bytes:
        """The error's object."""
        return b"event: error\ndata: " + encode(anthropic_error(error)) + b"\n\n"

    def whole(self, texts: Sequence[str]) -> AnsweredMessage:
        """The message with all its blocks."""
        content = _content(self._parser.push(texts[0], is_last=True))
        return AnsweredMessage(
            self._generation.id, self._model, content, self._usage, self._stop_reason, self._stop_sequence
        )

    @property
    def _usage(self) -> MessageUsage:
        usage = self._generation.usage
        num_cached = usage.prompt_tokens_details.cached_tokens
        return MessageUsage(usage.prompt_tokens - num_cached, usage.completion_tokens, num_cached)

    @property
    def _stop_reason(self) -> str:
        choice = self._generation.choices[0]
        if choice.finish_reason == "length":
            return "max_tokens" if choice.num_tokens >= self._max_tokens else "model_context_window_exceeded"
        if choice.stop_string:
            return "stop_sequence"
        return "tool_use" if self._parser.num_calls else "end_turn"

    @property
    def _stop_sequence(self) -> str | None:
        return self._generation.choices[0].stop_string or None


class _BlockEvents:
    """The blocks of a stream, of which one is open at a time."""

    def __init__(self) -> None:
        self._index = -1
        self._open: Literal["thinking", "text", "tool_use"] | None = None
        self._blanks = ""
        """What a text would begin with; dropped if a call comes instead."""
        self._arguments = ""
        """Of the open call, held back as long as they do not begin an object; they become a field of one."""
        self._has_object = False

    def take(self, parts: Parts) -> Iterator[bytes]:
        if parts.rest_of_call:
            yield from self._grow(parts.rest_of_call)
        if parts.reasoning:
            yield from self._more("thinking", parts.reasoning)
        for each in parts.begun:
            yield from self._say(each) if isinstance(each, str) else self._call(each)

    def _say(self, text: str) -> Iterator[bytes]:
        text, self._blanks = self._blanks + text, ""
        if self._open == "text" or not text.isspace():
            yield from self._more("text", text)
        else:
            self._blanks = text

    def _call(self, piece: CallPiece) -> Iterator[bytes]:
        self._blanks = ""
        yield from self._close()
        yield self._begin(ToolUseBlock(_use_id(piece.id), piece.name, {}))
        self._open, self._has_object = "tool_use", False
        yield from self._grow(piece.arguments)

    def end(self) -> Iterator[bytes]:
        if self._blanks:
            yield from self._more("text", self._blanks)
        yield from self._close()

    def _more(self, kind: Literal["thinking", "text"], text: str) -> Iterator[bytes]:
        if self._open != kind:
            yield from self._close()
            yield self._begin(TextBlock("") if kind == "text" else ThinkingBlock(""))
            self._open = kind
        yield self._delta({"type": f"{kind}_delta", kind: text})

    def _grow(self, arguments: str) -> Iterator[bytes]:
        if self._is_object(arguments):
            yield self._json(arguments)

    def _is_object(self, arguments: str) -> bool:
        if not self._has_object:
            self._has_object = not self._arguments.strip() and arguments.lstrip().startswith("{")
            if not self._has_object:
                self._arguments += arguments
        return self._has_object

    def _json(self, text: str) -> bytes:
        return self._delta({"type": "input_json_delta", "partial_json": text})

    def _begin(self, block: AnsweredBlock) -> bytes:
        self._index += 1
        return _event("content_block_start", index=self._index, content_block=block)

    def _delta(self, delta: dict[str, str]) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)

    def _close(self) -> Iterator[bytes]:
        if self._open == "tool_use" and not self._has_object:
            yield self._json(encode(as_object(self._arguments)).decode())
        self._arguments = ""
        if self._open is not None:
            self._open = None
            yield _event("content_block_stop", index=self._index)


def _content(parts: Parts) -> list[AnsweredBlock]:
    content: list[AnsweredBlock] = [ThinkingBlock(parts.reasoning)] if parts.reasoning else []
    has_calls = bool(parts.calls)
    for each in parts.answer:
        if isinstance(each, CallPiece):
            content += map(_tool_use, called_tools([each]))
        elif not (has_calls and each.isspace()):
            content.append(TextBlock(each))
    return content


def _tool_use(call: CalledTool) -> ToolUseBlock:
    return ToolUseBlock(_use_id(call.id), call.function.name, as_object(call.function.arguments))


def _use_id(call_id: str) -> str:
    return f"toolu_{call_id.removeprefix('call_')}"


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + encode({"type": kind} | fields) + b"\n\n"


MESSAGE = Form(MessagesRequest, "msg_", prepare_message, MessageAnswer, absent=NOT_OF_MESSAGES)
"""POST /v1/messages."""
