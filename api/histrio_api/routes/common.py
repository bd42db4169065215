"""What routes have in common: the endpoint's shared state, and answers as JSON."""

from __future__ import annotations

from typing import Any

import msgspec

from histrio_api.http.request import Request
from histrio_api.http.response import Response
from histrio_api.request.body import ReceivedBody
from histrio_api.request.ignored import STRICT_HEADER
from histrio_api.shared.edge import Edge

__all__ = [
    "HttpRequest",
    "end_tokens",
    "is_strict",
    "json_response",
    "may_see_model",
    "request_body",
]

HttpRequest = Request[Edge]

_STRICT = STRICT_HEADER.encode()


def is_strict(request: HttpRequest) -> bool:
    """Whether fields that would be ignored are refused."""
    return request.state.settings.strict or request.header(_STRICT).lower() == b"true"


def may_see_model(request: HttpRequest) -> bool:
    """Whether the request's key may use the served model; without keys every request may."""
    edge = request.state
    return edge.keys.limits_of(request.sender).may_use(edge.gateway.model.id)


def end_tokens(edge: Edge) -> tuple[str | None, str | None]:
    """What begins a text and what ends one, as the tokenizer declares them, or else the model's configuration."""
    model = edge.gateway.model
    bos = None if model.bos_id is None else edge.tokenizer.token(model.bos_id)
    eos = edge.tokenizer.token(model.eos_ids[0]) if model.eos_ids else None
    declared = {} if edge.template is None else edge.template.special_tokens
    return declared.get("bos_token", bos), declared.get("eos_token", eos)


def json_response(content: Any, headers: dict[str, str] | None = None) -> Response:
    """A 200 with `content` as JSON."""
    return Response(msgspec.json.encode(content), headers=headers or {})


def request_body(request: HttpRequest) -> ReceivedBody:
    """The request's body, for as long as it is worked on."""
    edge = request.state
    return ReceivedBody(request, edge.body_room, edge.settings.max_body_bytes)
