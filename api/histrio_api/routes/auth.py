"""API keys: a guard on every route that does not say that it is open."""

from __future__ import annotations

from typing import Any

from litestar.connection import ASGIConnection, Request
from litestar.datastructures import Headers
from litestar.handlers import BaseRouteHandler

from histrio_api.errors import InvalidKey
from histrio_api.keys.limits import KeyLimits
from histrio_api.keys.ring import note_sender
from histrio_api.shared.edge import Edge

__all__ = ["OPEN", "OPEN_METRICS", "is_known", "is_open", "require_key"]

OPEN = {"needs_key": "never"}
"""`opt=OPEN` of a route that every client may use."""
OPEN_METRICS = {"needs_key": "unless-open-metrics"}
"""`opt=OPEN_METRICS` of a route that tells how busy the server is."""

Connection = ASGIConnection[Any, Any, Any, Any]


def require_key(connection: Connection, handler: BaseRouteHandler) -> None:
    """Raise `InvalidKey` unless no keys are set, the route is open, or the request carries a key; `RateLimited` where
    that key has sent enough for now."""
    edge: Edge = connection.app.state.edge
    if not edge.keys.asks or is_open(handler, edge):
        return

    limits = _sent_key(connection, edge)
    if limits is None:
        raise InvalidKey("the API key is wrong")
    note_sender(connection.scope, limits)
    if isinstance(connection, Request) and connection.method == "POST":
        limits.take_request()


def is_known(connection: Connection) -> bool:
    """Whether a request to an open route may see what others may not."""
    edge: Edge = connection.app.state.edge
    if not edge.keys.asks or edge.settings.open_metrics:
        return True
    try:
        return _sent_key(connection, edge) is not None
    except InvalidKey:
        return False


def is_open(handler: BaseRouteHandler, edge: Edge) -> bool:
    """Whether requests to this route need no key."""
    needs_key = handler.opt.get("needs_key")
    return needs_key == "never" or (needs_key == "unless-open-metrics" and edge.settings.open_metrics)


def _sent_key(connection: Connection, edge: Edge) -> KeyLimits | None:
    """None for a wrong one. Raises `InvalidKey` if there is none."""
    sent = _key_of(connection.headers)
    if not sent:
        raise InvalidKey("this server needs an API key: send it as `Authorization: Bearer KEY`, or as `x-api-key: KEY`")
    return edge.keys.find(sent)


def _key_of(headers: Headers) -> bytes:
    """The bytes as they came: of a bearer, as OpenAI's clients send it, or else of `x-api-key`, as Anthropic's do."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given.strip():
        given = headers.get("x-api-key", "")
    return given.strip().encode("latin-1")
