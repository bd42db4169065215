"""API keys: a guard on every route but /health."""

from __future__ import annotations

from hashlib import blake2s
from hmac import compare_digest
from typing import Any

from litestar.connection import ASGIConnection
from litestar.datastructures import Headers
from litestar.handlers import BaseRouteHandler

from histrio_api.errors import InvalidKey

__all__ = ["KEY_LABEL", "key_label", "require_key"]

OPEN_PATHS = ("/health", "/health/live")
KEY_LABEL = "histrio.key_label"
"""Where the label of a request's key stands in its ASGI scope."""


def require_key(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Raise `InvalidKey` unless no keys are set, or the request carries one of them."""
    keys: list[str] | None = connection.app.state.edge.settings.api_keys
    if not keys or connection.scope["path"] in OPEN_PATHS:
        return

    sent = _sent_key(connection.headers)
    if not sent:
        raise InvalidKey("this server needs an API key: send it as `Authorization: Bearer KEY`, or as `x-api-key: KEY`")
    # Every key is compared, so that the time taken tells nothing.
    matches = [compare_digest(sent, key.encode()) for key in keys]
    if not any(matches):
        raise InvalidKey("the API key is wrong")
    connection.scope[KEY_LABEL] = key_label(sent)  # type: ignore[literal-required]


def _sent_key(headers: Headers) -> bytes:
    """The bytes as they came: of a bearer, as OpenAI's clients send it, or else of `x-api-key`, as Anthropic's do."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given.strip():
        given = headers.get("x-api-key", "")
    return given.strip().encode("latin-1")


def key_label(key: bytes) -> str:
    """What policies, hooks and logs know a key by: always the same for a key, and no way back to it."""
    return blake2s(key, digest_size=8, person=b"api-key").hexdigest()
