"""API keys: asked for on every route, which says what it needs unless that is a key that may use the served model."""

from __future__ import annotations

from histrio.errors import RequestError
from histrio_api.errors import InvalidKey
from histrio_api.http.routing import Route
from histrio_api.keys.limits import KeyLimits
from histrio_api.routes.common import HttpRequest
from histrio_api.shared.edge import Edge
from histrio_api.shared.settings import is_loopback

__all__ = ["ADMIN", "ANY_KEY", "METRICS", "OPEN", "AdminOnly", "is_known", "is_open", "require_key"]

OPEN = {"needs_key": "never"}
"""`opt=OPEN` of a route that every client may use."""
ANY_KEY = {"needs_key": "any"}
"""Of a route that tells nothing of the served model to a key that may not use it."""
ADMIN = {"needs_key": "admin"}
"""Of a route that changes the server for all."""
METRICS = {"needs_key": "admin-unless-open-metrics"}
"""Of a route that tells what the requests of all keys come to."""


class AdminOnly(RequestError):
    """The request is about the server as a whole, and its sender may not."""

    status = 403
    code = "admin_only"


def require_key(request: HttpRequest, route: Route) -> None:
    """Raise `InvalidKey`, `ModelNotAllowed` or `AdminOnly` unless the request carries the key that the route needs;
    `RateLimited` where that key has sent enough for now."""
    edge = request.state
    if is_open(route, edge):
        return
    if not edge.keys.asks:
        _require_local(route, edge)
        return

    limits = _sent_key(request)
    if limits is None:
        raise InvalidKey("the API key is wrong")
    request.sender = limits.key.name
    if request.method == "POST":
        limits.take_request()
    _require_right(route, edge, limits)


def is_known(request: HttpRequest) -> bool:
    """Whether a request to an open route may see what others may not."""
    edge = request.state
    if not edge.keys.asks or edge.settings.open_metrics:
        return True
    try:
        return _sent_key(request) is not None
    except InvalidKey:
        return False


def is_open(route: Route, edge: Edge) -> bool:
    """Whether requests to this route need no key."""
    needs_key = _needs_key(route)
    return needs_key == "never" or (needs_key == "admin-unless-open-metrics" and edge.settings.open_metrics)


def _needs_key(route: Route) -> str:
    return str(route.opt.get("needs_key", ""))


def _require_local(route: Route, edge: Edge) -> None:
    """Where no keys are set, every client on this machine may change the server."""
    if _needs_key(route) == "admin" and not is_loopback(edge.settings.host):
        raise AdminOnly("the server is reached from other machines and asks for no keys; give it an admin's key")


def _require_right(route: Route, edge: Edge, limits: KeyLimits) -> None:
    match _needs_key(route):
        case "any":
            return
        case "admin" if not limits.key.admin:
            raise AdminOnly("only a key with `admin = true` may change the server")
        case "admin-unless-open-metrics" if not limits.key.admin:
            text = "only a key with `admin = true` may read the metrics of all requests, unless open-metrics is set"
            raise AdminOnly(text)
        case "":
            limits.require_model(edge.gateway.model.id)


def _sent_key(request: HttpRequest) -> KeyLimits | None:
    """None for a wrong one. Raises `InvalidKey` if there is none."""
    sent = _key_of(request)
    if not sent:
        raise InvalidKey("this server needs an API key: send it as `Authorization: Bearer KEY`, or as `x-api-key: KEY`")
    return request.state.keys.find(sent)


def _key_of(request: HttpRequest) -> bytes:
    """The bytes as they came: of a bearer, as OpenAI's clients send it, or else of `x-api-key`, as Anthropic's do."""
    scheme, _, given = request.header(b"authorization").partition(b" ")
    if scheme.lower() != b"bearer" or not given.strip():
        given = request.header(b"x-api-key")
    return given.strip()
