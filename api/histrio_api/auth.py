"""API keys: a guard on every route but /health."""

from __future__ import annotations

from hmac import compare_digest
from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from histrio_api.errors import InvalidKey

__all__ = ["require_key"]

OPEN_PATHS = ("/health", "/health/live")


def require_key(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Raise `InvalidKey` unless no keys are set, or the request carries one of them."""
    keys: list[str] = connection.app.state.edge.settings.api_keys
    if not keys or connection.scope["path"] in OPEN_PATHS:
        return

    scheme, _, given = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given:
        raise InvalidKey("this server needs an API key: send it as `Authorization: Bearer KEY`")
    # Every key is compared, so that the time taken tells nothing.
    sent = given.strip().encode("latin-1")  # the bytes as they came
    matches = [compare_digest(sent, key.encode()) for key in keys]
    if not any(matches):
        raise InvalidKey("the API key is wrong")
