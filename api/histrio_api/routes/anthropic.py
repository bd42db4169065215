"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

import time

from histrio_api.forms.anthropic import MESSAGE, count_message_tokens
from histrio_api.forms.anthropic_chat import NOT_OF_MESSAGES
from histrio_api.http.response import Response
from histrio_api.http.routing import post
from histrio_api.request.ignored import IgnoredFields, ignored_headers
from histrio_api.request.received import Arrival, receive
from histrio_api.routes.common import HttpRequest, is_strict, json_response, request_body
from histrio_api.routes.described import described, described_form
from histrio_api.routes.respond import respond
from histrio_api.schemas.anthropic import AnsweredMessage, CountTokensRequest

__all__ = ["count_tokens", "messages"]


@post("/v1/messages", opt=described_form(MESSAGE, AnsweredMessage))
async def messages(request: HttpRequest) -> Response:
    """Answer a conversation, at once or as a stream."""
    return await respond(request, MESSAGE)


@post("/v1/messages/count_tokens", opt=described(CountTokensRequest, without=NOT_OF_MESSAGES))
async def count_tokens(request: HttpRequest) -> Response:
    """How many tokens a conversation has as a prompt."""
    edge = request.state
    async with request_body(request) as body:
        arrival = Arrival(time.perf_counter(), request.sender, is_strict(request))

        def work() -> tuple[int, IgnoredFields]:
            received = receive(edge, body, CountTokensRequest, arrival)
            return count_message_tokens(edge, received), received.ignored

        num_tokens, ignored = await edge.run_text(work, len(body))
    return json_response({"input_tokens": num_tokens}, ignored_headers(edge, ignored))
