"""Server-sent events: chunks built from byte templates, and the response that sends them.

Per token only the text itself is encoded; everything else of a chunk is the same for the whole request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import anyio
import msgspec
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Send

from histrio_api.answer.choice import Choice
from histrio_api.answer.generation import Generation
from histrio_api.answer.logprobs import ChoiceLogprobs, PlacedToken, chat_logprobs, completion_logprobs
from histrio_api.schemas.chat import CalledTool
from histrio_api.schemas.generation import UsageStats

__all__ = ["DONE", "ChatChunks", "CompletionChunks", "EventSource", "EventStream", "Write", "error_event"]

DONE = b"data: [DONE]\n\n"

Write = Callable[[bytes], Awaitable[None]]

_encode = msgspec.json.Encoder().encode


class _Chunks:
    """The constant parts of one request's chunks."""

    object_name: str

    def __init__(self, generation: Generation, model: str, fingerprint: str, usage_stats: UsageStats) -> None:
        self._generation = generation
        self._usage_stats = usage_stats
        fields = {
            "id": generation.id,
            "object": self.object_name,
            "created": generation.created,
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._head = b"data: " + _encode(fields)[:-1] + b',"choices":['
        self._heads = [self._head + b'{"index":%d,' % at for at in range(len(generation.choices))]
        self._tail = b'}],"usage":null}\n\n' if usage_stats != "none" else b"}]}\n\n"

    def usage(self) -> bytes:
        """The last chunk, without choices."""
        return self._head + b'],"usage":' + _encode(self._generation.usage) + b"}\n\n"

    def _chunk(self, choice: Choice, content: bytes, finish_reason: bytes = b"null") -> bytes:
        tail = self._tail
        if self._usage_stats == "every":
            tail = b'}],"usage":' + _encode(self._generation.usage) + b"}\n\n"
        return self._heads[choice.index] + content + b',"finish_reason":' + finish_reason + tail


class ChatChunks(_Chunks):
    """Chunks of a chat completion."""

    object_name = "chat.completion.chunk"

    def opening(self, choice: Choice) -> bytes:
        """The first chunk: who speaks."""
        return self._chunk(choice, b'"delta":{"role":"assistant","content":""},"logprobs":null')

    def text(self, choice: Choice, text: str) -> bytes:
        """More of the answer, with the log probabilities that go out with it."""
        logprobs = b'},"logprobs":null' if choice.logprobs is None else b"}" + _shown(choice.logprobs, chat_logprobs)
        return self._chunk(choice, b'"delta":{"content":' + _encode(text) + logprobs)

    def thought(self, choice: Choice, text: str) -> bytes:
        """More of what the model thinks before it answers."""
        return self._chunk(choice, b'"delta":{"reasoning_content":' + _encode(text) + b'},"logprobs":null')

    def tool_call(self, choice: Choice, call: CalledTool, at: int) -> bytes:
        """A whole tool call, the `at`-th of the choice."""
        delta = {"index": at} | msgspec.to_builtins(call)
        return self._chunk(choice, b'"delta":{"tool_calls":[' + _encode(delta) + b']},"logprobs":null')

    def finish(self, choice: Choice, finish_reason: str) -> bytes:
        """The last chunk of a choice."""
        return self._chunk(choice, b'"delta":{},"logprobs":null', _encode(finish_reason))


class CompletionChunks(_Chunks):
    """Chunks of a plain completion."""

    object_name = "text_completion"

    def text(self, choice: Choice, text: str) -> bytes:
        """More text; the last one of a choice says why it ends."""
        finish_reason = _encode(choice.finish_reason) if choice.finish_reason else b"null"
        logprobs = b',"logprobs":null' if choice.logprobs is None else _shown(choice.logprobs, completion_logprobs)
        return self._chunk(choice, b'"text":' + _encode(text) + logprobs, finish_reason)


def _shown(logprobs: ChoiceLogprobs, form: Callable[[list[PlacedToken]], Any]) -> bytes:
    shown = logprobs.take_shown()
    return b',"logprobs":' + (_encode(form(shown)) if shown else b"null")


def error_event(body: bytes) -> bytes:
    """An error in the middle of a stream; nothing follows it."""
    return b"data: " + body + b"\n\n"


class EventSource(Protocol):
    """Where a stream's events come from."""

    async def produce(self, write: Write) -> None:
        """Write all events, then return; cancelled if the client leaves."""

    def comment(self) -> bytes:
        """What is waited for, in a word: sent while nothing is written."""

    def close(self, is_complete: bool) -> None:
        """Called once, whatever happened; `is_complete` if all was sent."""


class EventStream(ASGIResponse):
    """Sends what a source writes, and comments while it is silent; always closes the source."""

    _should_set_content_length = False

    def __init__(self, source: EventSource, *, keep_alive_s: float, headers: dict[str, Any]) -> None:
        """A comment is sent before the stream was silent for `keep_alive_s` seconds."""
        stream_headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(headers=stream_headers | headers, media_type="text/event-stream")
        self._source = source
        self._keep_alive_s = keep_alive_s
        self._num_events = 0
        self._is_complete = False

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Send headers and events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._source.close(self._is_complete)

    async def send_body(self, send: Send, receive: Receive) -> None:
        """Run the producer until it is through or the client has left."""

        async def write(data: bytes) -> None:
            self._num_events += 1
            await send({"type": "http.response.body", "body": data, "more_body": True})

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch_client, receive, tasks.cancel_scope)
            tasks.start_soon(self._keep_alive, send)
            await self._source.produce(write)
            self._is_complete = True
            tasks.cancel_scope.cancel()
        if self._is_complete:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _watch_client(self, receive: Receive, scope: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    async def _keep_alive(self, send: Send) -> None:
        """One timer per stream, not per token: it only looks whether events were sent since it looked last."""
        num_events = -1
        while True:
            if num_events == self._num_events:
                body = b": " + self._source.comment() + b"\n\n"
                await send({"type": "http.response.body", "body": body, "more_body": True})
            num_events = self._num_events
            await anyio.sleep(self._keep_alive_s / 2)
