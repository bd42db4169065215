"""Chats and completions as Ollama has them: a line of JSON for each piece, durations in the last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from histrio.errors import HistrioError, RequestError
from histrio_api.answer.choice import Choice
from histrio_api.answer.chunks import encode
from histrio_api.answer.generation import Generation
from histrio_api.answer.logprobs import chat_logprobs
from histrio_api.error_shapes import ollama_error
from histrio_api.forms.chat import prepare_chat
from histrio_api.forms.form import Form
from histrio_api.request.absent import require_absent
from histrio_api.request.as_chat import as_chat
from histrio_api.request.gaps import Gap, gap_prompt
from histrio_api.request.prepared import Prepared
from histrio_api.request.prompts import Prompt, text_prompt
from histrio_api.request.received import Received
from histrio_api.request.scores import Scores, wanted_scores
from histrio_api.request.structured import requested_grammar
from histrio_api.schemas.chat import CalledTool, ChatRequest
from histrio_api.schemas.generation import GenerationRequest, StreamOptions
from histrio_api.schemas.messages import ChatMessage
from histrio_api.schemas.ollama import OllamaChatRequest, OllamaGenerateRequest
from histrio_api.shared.edge import Edge
from histrio_api.text.answers import AnswerParser, Parts, WholeCalls, called_tools
from histrio_api.text.call_arguments import as_object

__all__ = ["OLLAMA_CHAT", "OLLAMA_GENERATE", "OllamaAnswer", "nanoseconds", "timestamp"]

_NOT_OF_OLLAMA: dict[str, object] = {"n": 1, "stream_options": StreamOptions()}
_NOT_OF_CHATS: dict[str, object] = _NOT_OF_OLLAMA | {"prompt_logprobs": None, "return_token_ids": False}
_NANOSECONDS = 1_000_000_000
_MEDIA_TYPE = "application/x-ndjson"


def prepare_ollama_chat(edge: Edge, received: Received[OllamaChatRequest]) -> Prepared:
    """From messages to one prompt, or to none where there are no messages. Raises `RequestError`."""
    request = received.request
    require_absent(request, _NOT_OF_CHATS, "/api/chat")
    return prepare_chat(edge, received) if request.messages else _nothing(edge, received)


def prepare_ollama_generate(edge: Edge, received: Received[OllamaGenerateRequest]) -> Prepared:
    """From a prompt to the chat that it begins, or to the prompt itself where it is raw, or no model's template would
    be read. Raises `RequestError`."""
    request = received.request
    require_absent(request, _NOT_OF_OLLAMA, "/api/generate")
    if not request.prompt:
        return _nothing(edge, received)
    if request.raw or request.suffix or edge.template is None:
        return _prepare_raw(edge, received)

    chat = prepare_chat(edge, _as_chat(received))
    return replace(chat, prompt_param="prompt")


def _nothing(edge: Edge, received: Received[GenerationRequest]) -> Prepared:
    """Ollama's clients have a model loaded by such a request; here it is loaded. A malformed form is refused anyway."""
    requested_grammar(edge, received)
    return Prepared(
        received=received, prompts=[], prompt_param="prompt", num_wanted_tokens=None, scores=Scores(), grammar=None
    )


def _prepare_raw(edge: Edge, received: Received[OllamaGenerateRequest]) -> Prepared:
    request = received.request
    if request.system:
        why = "this model has no chat template" if edge.template is None else "a prompt without a template has none"
        raise RequestError(f"system: {why}; put it into the prompt", param="system", code="unsupported_parameter")

    return Prepared(
        received=received,
        prompts=[_raw_prompt(edge, request)],
        prompt_param="prompt",
        num_wanted_tokens=request.max_tokens,
        scores=wanted_scores(edge, Scores(_num_top(request)), is_stream=request.stream),
        grammar=requested_grammar(edge, received),
        hides_special=request.skip_special_tokens,
        continues_prompt=not request.suffix,
    )


def _raw_prompt(edge: Edge, request: OllamaGenerateRequest) -> Prompt:
    if request.suffix:
        return gap_prompt(edge, Gap(request.prompt, request.suffix), "suffix", add_special=True)
    return text_prompt(edge, request.prompt, "prompt", add_special=True)


def _num_top(request: OllamaGenerateRequest) -> int | None:
    if request.top_logprobs and not request.logprobs:
        raise RequestError("top_logprobs: only allowed when logprobs is true", param="top_logprobs")
    return request.top_logprobs if request.logprobs else None


def _as_chat(received: Received[OllamaGenerateRequest]) -> Received[ChatRequest]:
    request = received.request
    said = {"system": request.system, "user": request.prompt}
    given = {
        "messages": [ChatMessage(role=role, content=text) for role, text in said.items() if text],
        "think": request.think,
        "logprobs": request.logprobs,
        "top_logprobs": request.top_logprobs,
    }
    return as_chat(received, given)


class OllamaAnswer:
    """An answer of /api/chat."""

    def __init__(self, edge: Edge, prepared: Prepared, generation: Generation) -> None:
        self._generation = generation
        self._parser = AnswerParser(prepared.parts)
        self._calls = WholeCalls()
        self._model = edge.gateway.model.id
        self._head = b'{"model":' + encode(self._model) + b',"created_at":"'

    def opening(self) -> bytes:
        """Nothing."""
        return b""

    def piece(self, choice: Choice, text: str) -> bytes:
        """A line, if the piece has anything in it."""
        is_last = bool(choice.finish_reason)
        parts = self._parser.push(text, is_last=is_last)
        calls = self._calls.take(parts, is_last=is_last)
        logprobs = _logprobs(choice)
        if not (parts.text or parts.reasoning or calls or logprobs):
            return b""
        return self._line(self.content(parts, calls) | logprobs | {"done": False})

    def waiting(self, *, is_recovering: bool) -> bytes:
        """A space before the next line, which JSON allows: clients read an empty line as a broken one."""
        return b" "

    def closing(self) -> bytes:
        """What the answer took."""
        return self._line(self.content(Parts()) | self._end())

    def failure(self, error: HistrioError) -> bytes:
        """The error's object."""
        return encode(ollama_error(error)) + b"\n"

    def whole(self, texts: Sequence[str]) -> dict[str, Any]:
        """All of it, and what it took."""
        parts = self._parser.push(texts[0], is_last=True) if texts else Parts()
        head = {"model": self._model, "created_at": timestamp()}
        logprobs = _logprobs(self._generation.choices[0]) if texts else {}
        return head | self.content(parts, called_tools(parts.calls)) | logprobs | self._end()

    def content(self, parts: Parts, calls: Sequence[CalledTool] = ()) -> dict[str, Any]:
        """A piece of the answer in its place, with the calls that have ended."""
        message: dict[str, Any] = {"role": "assistant", "content": parts.text}
        if parts.reasoning:
            message["thinking"] = parts.reasoning
        if calls:
            message["tool_calls"] = [*map(_called, calls)]
        return {"message": message}

    def _line(self, fields: dict[str, Any]) -> bytes:
        return self._head + timestamp().encode() + b'",' + encode(fields)[1:] + b"\n"

    def _end(self) -> dict[str, Any]:
        generation = self._generation
        if not generation.choices:
            return {"done": True, "done_reason": "load"}

        usage, timings = generation.usage, generation.timings
        return {
            "done": True,
            "done_reason": generation.choices[0].finish_reason,
            "total_duration": nanoseconds(timings.total_s),
            "load_duration": nanoseconds(timings.reading_s),
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": nanoseconds(timings.prompt_s),
            "eval_count": usage.completion_tokens,
            "eval_duration": nanoseconds(timings.answer_s),
        }


class OllamaText(OllamaAnswer):
    """An answer of /api/generate."""

    def content(self, parts: Parts, calls: Sequence[CalledTool] = ()) -> dict[str, Any]:
        """A piece of the answer in its place."""
        thinking = {"thinking": parts.reasoning} if parts.reasoning else {}
        return {"response": parts.text} | thinking


def timestamp() -> str:
    """Of now, as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def nanoseconds(seconds: float) -> int:
    """As Ollama writes durations."""
    return round(seconds * _NANOSECONDS)


def _logprobs(choice: Choice) -> dict[str, Any]:
    if choice.logprobs is None:
        return {}
    shown = chat_logprobs(choice.logprobs.take_shown()).content
    return {"logprobs": msgspec.to_builtins(shown)} if shown else {}


def _called(call: CalledTool) -> dict[str, Any]:
    function = call.function
    return {"id": call.id, "function": {"name": function.name, "arguments": as_object(function.arguments)}}


OLLAMA_CHAT = Form(OllamaChatRequest, "chat-", prepare_ollama_chat, OllamaAnswer, _MEDIA_TYPE, _NOT_OF_CHATS)
"""POST /api/chat."""
OLLAMA_GENERATE = Form(OllamaGenerateRequest, "gen-", prepare_ollama_generate, OllamaText, _MEDIA_TYPE, _NOT_OF_OLLAMA)
"""POST /api/generate."""
