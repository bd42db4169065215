"""Responses, as OpenAI has them: items of a conversation in; reasoning, messages and calls of tools out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeVar

import msgspec
from msgspec import structs

from histrio.errors import HistrioError, RequestError
from histrio_api.answer.choice import Choice
from histrio_api.answer.chunks import encode
from histrio_api.answer.generation import Generation
from histrio_api.error_shapes import responses_error
from histrio_api.forms.chat import prepare_chat
from histrio_api.forms.form import Form
from histrio_api.forms.response_events import ResponseEvents
from histrio_api.forms.response_input import earlier_items, num_named_bytes, own_items
from histrio_api.forms.response_output import ResponseOutput
from histrio_api.forms.responses_chat import Placed, to_chat
from histrio_api.request.absent import require_absent
from histrio_api.request.prepared import Prepared
from histrio_api.request.prompts import counted_ids
from histrio_api.request.received import Received
from histrio_api.request.rendering import chat_text
from histrio_api.schemas.answered_responses import (
    AnsweredResponse,
    IncompleteDetails,
    InputTokensDetails,
    OutputTokensDetails,
    ResponseFailure,
    ResponseUsage,
)
from histrio_api.schemas.generation import GenerationRequest
from histrio_api.schemas.logprobs import TokenLogprob
from histrio_api.schemas.responses import InputTokensRequest, ResponsesRequest
from histrio_api.shared.edge import Edge
from histrio_api.shared.response_store import KeptResponse
from histrio_api.text.answers import AnswerParser

__all__ = ["NOT_OF_RESPONSES", "RESPONSE", "ResponseAnswer", "count_input_tokens", "prepare_response"]

R = TypeVar("R", bound=InputTokensRequest)

NOT_OF_RESPONSES = {"n": 1}
"""What chats have and this form has not; and what it is where it is not given."""
_LOGPROBS = "message.output_text.logprobs"


def prepare_response(edge: Edge, received: Received[ResponsesRequest]) -> Prepared:
    """From a conversation to one prompt. Raises `RequestError`."""
    asked = _with_own_items(edge, received)
    request = asked.request
    _check(edge, asked)
    chat = to_chat(
        asked,
        _conversation(edge, asked),
        max_completion_tokens=request.max_output_tokens,
        logprobs=_LOGPROBS in request.include or request.top_logprobs > 0,
        top_logprobs=request.top_logprobs,
    )
    prepared = prepare_chat(edge, chat)
    # They are fields of a message's text, and reasoning is an item of its own.
    scores = prepared.scores._replace(leaves_out_reasoning=True)
    return replace(prepared, received=asked, scores=scores)


def count_input_tokens(edge: Edge, received: Received[InputTokensRequest]) -> int:
    """How many tokens the prompt has, also where the context cannot hold them. Raises `RequestError`."""
    asked = _with_own_items(edge, received)
    chat = to_chat(asked, _conversation(edge, asked)).request
    text = chat_text(edge, chat, asked.ignored)
    return len(counted_ids(edge, text, "input", add_special=chat.add_special_tokens))


def _with_own_items(edge: Edge, received: Received[R]) -> Received[R]:
    items = own_items(edge, received.request, received.key)
    return replace(received, request=structs.replace(received.request, input=items))


def _conversation(edge: Edge, asked: Received[InputTokensRequest]) -> list[Placed]:
    request = asked.request
    assert not isinstance(request.input, str), "a text has become an item"
    earlier = [(item, "previous_response_id") for item in earlier_items(edge, request, asked.key)]
    return earlier + [(item, f"input[{at}]") for at, item in enumerate(request.input)]


def _check(edge: Edge, asked: Received[ResponsesRequest]) -> None:
    """What no chat would refuse."""
    request = asked.request
    require_absent(request, NOT_OF_RESPONSES, "/v1/responses")
    if request.stream_options.continuous_usage_stats:
        text = "stream_options.continuous_usage_stats: not supported by /v1/responses; leave it out"
        raise RequestError(text, param="stream_options.continuous_usage_stats", code="unsupported_parameter")
    if request.metadata is not None and not encode(request.metadata).startswith(b"{"):
        raise RequestError("metadata: must be an object", param="metadata")
    if request.store and not edge.responses.is_open:
        asked.ignored.add("store", "store")
    for at, name in enumerate(request.include):
        if name != _LOGPROBS:
            asked.ignored.add("include[]", f"include[{at}]")


class ResponseAnswer:
    """A response, or the events of its items."""

    def __init__(self, edge: Edge, prepared: Prepared, generation: Generation) -> None:
        asked = prepared.received
        assert isinstance(asked.request, ResponsesRequest), "prepared by `prepare_response`"
        self._request = asked.request
        self._key = asked.key
        self._store = edge.responses
        self._generation = generation
        self._parser = AnswerParser(prepared.parts)
        self._output = ResponseOutput(prepared.parts.custom_tools)
        self._events = ResponseEvents()
        self._response = _begun(edge, asked, asked.request, generation)

    def opening(self) -> bytes:
        """The response without its output."""
        body = msgspec.Raw(encode(self._response))
        return self._events.event("response.created", response=body) + self._events.event(
            "response.in_progress", response=body
        )

    def piece(self, choice: Choice, text: str) -> bytes:
        """Events for each thing that the piece turns out to be, and for each item that begins or ends."""
        parts = self._parser.push(text, is_last=bool(choice.finish_reason))
        return b"".join(map(self._events.change, self._output.take(parts, _logprobs(choice))))

    def waiting(self, *, is_recovering: bool) -> bytes:
        """A comment."""
        return b": recovering\n\n" if is_recovering else b": ping\n\n"

    def closing(self) -> bytes:
        """The end of the last item, and the whole response."""
        last = b"".join(map(self._events.change, self._output.end(self._status)))
        body = msgspec.Raw(self._finished())
        return last + self._events.event(f"response.{self._status}", response=body)

    def failure(self, error: HistrioError) -> bytes:
        """The error, and the response that failed with it."""
        content = responses_error(error)["error"]
        self._response.status = "failed"
        self._response.error = ResponseFailure(content["code"], content["message"])
        told = {name: content[name] for name in ("code", "message", "param")}
        return self._events.event("error", **told) + self._events.event("response.failed", response=self._response)

    def whole(self, texts: Sequence[str]) -> msgspec.Raw:
        """The response with all its items."""
        choice = self._generation.choices[0]
        parts = self._parser.push(texts[0], is_last=True)
        for _ in (*self._output.take(parts, _logprobs(choice)), *self._output.end(self._status)):
            pass
        return msgspec.Raw(self._finished())

    @property
    def _status(self) -> Literal["completed", "incomplete"]:
        return "incomplete" if self._generation.choices[0].finish_reason == "length" else "completed"

    def _finished(self) -> bytes:
        """The whole response, which is kept for later requests unless they are not to find it."""
        response, output = self._response, self._output.items
        response.status = self._status
        response.completed_at = int(time.time())
        response.output = output
        response.usage = _usage(self._generation)
        response.incomplete_details = IncompleteDetails() if self._status == "incomplete" else None
        body = encode(response)
        if response.store:
            self._keep(body)
        return body

    def _keep(self, body: bytes) -> None:
        request = self._request
        assert not isinstance(request.input, str), "a text has become an item"
        kept = KeptResponse(
            id=self._generation.id,
            body=body,
            input_items=[(item.id or "", encode(item)) for item in request.input],
            output_items=[(item.id, encode(item)) for item in self._output.items],
            previous_id=request.previous_response_id or "",
        )
        self._store.keep(self._key, kept)


def _begun(
    edge: Edge, asked: Received[GenerationRequest], request: ResponsesRequest, generation: Generation
) -> AnsweredResponse:
    model = edge.gateway.model
    sampling = model.default_sampling | asked.sampling
    return AnsweredResponse(
        id=generation.id,
        created_at=generation.created,
        model=model.id,
        instructions=request.instructions,
        previous_response_id=request.previous_response_id,
        tools=msgspec.Raw(encode(request.tools)),
        tool_choice=request.tool_choice,
        parallel_tool_calls=request.parallel_tool_calls,
        reasoning={"effort": request.reasoning and request.reasoning.effort, "summary": None},
        text=request.text,
        temperature=sampling.get("temperature", 1.0),
        top_p=sampling.get("top_p", 1.0),
        top_logprobs=request.top_logprobs,
        max_output_tokens=request.max_output_tokens,
        metadata={} if request.metadata is None else request.metadata,
        store=request.store is not False and edge.responses.is_open,
        user=asked.user or None,
    )


def _logprobs(choice: Choice) -> list[TokenLogprob]:
    return [] if choice.logprobs is None else [token for _, token in choice.logprobs.take_shown()]


def _usage(generation: Generation) -> ResponseUsage:
    usage = generation.usage
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(usage.prompt_tokens_details.cached_tokens),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputTokensDetails(usage.completion_tokens_details.reasoning_tokens),
        total_tokens=usage.total_tokens,
    )


RESPONSE = Form(
    ResponsesRequest,
    "resp_",
    prepare_response,
    ResponseAnswer,
    num_named_bytes=num_named_bytes,
    absent=NOT_OF_RESPONSES,
)
"""POST /v1/responses."""
