"""What a chat becomes before the model sees it: /render, and llama.cpp's /apply-template."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from histrio_api.http.response import Response
from histrio_api.http.routing import post
from histrio_api.request.functions import with_tools
from histrio_api.request.ignored import ignored_headers
from histrio_api.request.prompts import counted_ids
from histrio_api.request.received import Arrival, Received, receive
from histrio_api.request.rendering import chat_text
from histrio_api.routes.common import HttpRequest, is_strict, json_response, request_body
from histrio_api.routes.described import described
from histrio_api.schemas.chat import ChatRequest
from histrio_api.shared.edge import Edge
from histrio_api.text.literals import ChatText

__all__ = ["apply_template", "render"]


@post(["/render", "/v1/chat/completions/render"], opt=described(ChatRequest))
async def render(request: HttpRequest) -> Response:
    """The prompt of a chat, as text and as ids, also where the context cannot hold it."""
    return await _answer(request, _rendered)


@post("/apply-template", opt=described(ChatRequest))
async def apply_template(request: HttpRequest) -> Response:
    """Its text alone."""
    return await _answer(request, lambda edge, received: {"prompt": _text(edge, received).whole})


async def _answer(request: HttpRequest, work: Callable[[Edge, Received[ChatRequest]], dict[str, Any]]) -> Response:
    edge = request.state
    async with request_body(request) as body:
        arrival = Arrival(time.perf_counter(), is_strict=is_strict(request))

        def run() -> tuple[dict[str, Any], Received[ChatRequest]]:
            received = receive(edge, body, ChatRequest, arrival)
            return work(edge, received), received

        content, received = await edge.run_text(run, len(body))
    return json_response(content, ignored_headers(edge, received.ignored))


def _rendered(edge: Edge, received: Received[ChatRequest]) -> dict[str, Any]:
    text = _text(edge, received)
    ids = counted_ids(edge, text, "messages", add_special=received.request.add_special_tokens)
    return {"prompt": text.whole, "token_ids": ids, "count": len(ids), "model": edge.gateway.model.id}


def _text(edge: Edge, received: Received[ChatRequest]) -> ChatText:
    return chat_text(edge, with_tools(received.request), received.ignored)
