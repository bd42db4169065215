"""API keys: asked for on every route, which says what it needs unless that is a key that may use the served model."""

from __future__ import annotations

from typing import Any, cast

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from histrio.errors import RequestError
from histrio_api.errors import InvalidKey
from histrio_api.keys.limits import KeyLimits
from histrio_api.keys.ring import note_sender
from histrio_api.request.headers import header_of
from histrio_api.shared.edge import Edge
from histrio_api.shared.settings import is_loopback

__all__ = ["ADMIN", "ANY_KEY", "METRICS", "OPEN", "AdminOnly", "KeyCheck", "is_known", "is_open", "require_key"]

OPEN = {"needs_key": "never"}
"""`opt=OPEN` of a route that every client may use."""
ANY_KEY = {"needs_key": "any"}
"""Of a route that tells nothing of the served model to a key that may not use it."""
ADMIN = {"needs_key": "admin"}
"""Of a route that changes the server for all."""
METRICS = {"needs_key": "admin-unless-open-metrics"}
"""Of a route that tells what the requests of all keys come to."""

Connection = ASGIConnection[Any, Any, Any, Any]


class AdminOnly(RequestError):
    """The request is about the server as a whole, and its sender may not."""

    status = 403
    code = "admin_only"


class KeyCheck:
    """Between the router and each route: a guard of litestar's would be given a copy of the route with every request,
    in a thread."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises what `require_key` raises."""
        require_key(cast("HTTPScope", scope))  # no route is a websocket's
        await self._app(scope, receive, send)


def require_key(scope: HTTPScope) -> None:
    """Raise `InvalidKey`, `ModelNotAllowed` or `AdminOnly` unless the request carries the key that the route needs;
    `RateLimited` where that key has sent enough for now."""
    edge: Edge = scope["litestar_app"].state.edge
    handler = scope["route_handler"]
    if is_open(handler, edge):
        return
    if not edge.keys.asks:
        _require_local(handler, edge)
        return

    limits = _sent_key(scope, edge)
    if limits is None:
        raise InvalidKey("the API key is wrong")
    note_sender(scope, limits)
    if scope["method"] == "POST":
        limits.take_request()
    _require_right(handler, edge, limits)


def is_known(connection: Connection) -> bool:
    """Whether a request to an open route may see what others may not."""
    edge: Edge = connection.app.state.edge
    if not edge.keys.asks or edge.settings.open_metrics:
        return True
    try:
        return _sent_key(connection.scope, edge) is not None
    except InvalidKey:
        return False


def is_open(handler: BaseRouteHandler, edge: Edge) -> bool:
    """Whether requests to this route need no key."""
    needs_key = _needs_key(handler)
    return needs_key == "never" or (needs_key == "admin-unless-open-metrics" and edge.settings.open_metrics)


def _needs_key(handler: BaseRouteHandler) -> str:
    return str(handler.opt.get("needs_key", ""))


def _require_local(handler: BaseRouteHandler, edge: Edge) -> None:
    """Where no keys are set, every client on this machine may change the server."""
    if _needs_key(handler) == "admin" and not is_loopback(edge.settings.host):
        raise AdminOnly("the server is reached from other machines and asks for no keys; give it an admin's key")


def _require_right(handler: BaseRouteHandler, edge: Edge, limits: KeyLimits) -> None:
    match _needs_key(handler):
        case "any":
            return
        case "admin" if not limits.key.admin:
            raise AdminOnly("only a key with `admin = true` may change the server")
        case "admin-unless-open-metrics" if not limits.key.admin:
            text = "only a key with `admin = true` may read the metrics of all requests, unless open-metrics is set"
            raise AdminOnly(text)
        case "":
            limits.require_model(edge.gateway.model.id)


def _sent_key(scope: Scope, edge: Edge) -> KeyLimits | None:
    """None for a wrong one. Raises `InvalidKey` if there is none."""
    sent = _key_of(scope)
    if not sent:
        raise InvalidKey("this server needs an API key: send it as `Authorization: Bearer KEY`, or as `x-api-key: KEY`")
    return edge.keys.find(sent)


def _key_of(scope: Scope) -> bytes:
    """The bytes as they came: of a bearer, as OpenAI's clients send it, or else of `x-api-key`, as Anthropic's do."""
    scheme, _, given = header_of(scope, b"authorization").partition(b" ")
    if scheme.lower() != b"bearer" or not given.strip():
        given = header_of(scope, b"x-api-key")
    return given.strip()
