"""An answer for everything that can go wrong, and the exceptions only an HTTP edge has.

No answer echoes the input or shows a traceback.
"""

from __future__ import annotations

import logging
import math
import re
from typing import Any

import msgspec

from histrio.errors import (
    EngineError,
    HistrioError,
    Overloaded,
    PluginFailed,
    RequestBrokeEngine,
    RequestError,
    is_out_of_memory,
)
from histrio_api.error_shapes import MAX_PARAM_CHARS, error_object
from histrio_api.http.request import Request
from histrio_api.http.response import Response
from histrio_api.request_log import log_refusal
from histrio_api.usage.counts import Counts

__all__ = [
    "STATUS_CLIENT_LEFT",
    "BodyTooLarge",
    "ClientLeft",
    "GenerationFailed",
    "InvalidKey",
    "ResponseNotFound",
    "from_validation",
    "on_error",
    "presentable",
]

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 5
_MAX_RETRY_AFTER_S = 86_400
STATUS_CLIENT_LEFT = 499
"""No HTTP status: how requests are counted whose client left before the end."""

_PATH = re.compile(r" - at `\$\.?(?P<path>.*)`$", re.DOTALL)
_FIELD = re.compile(r"(?:missing required|contains unknown) field `(?P<name>.*)`", re.DOTALL)


class InvalidKey(RequestError):
    """The endpoint asks for an API key, and the request has none or a wrong one."""

    status = 401
    code = "invalid_api_key"
    type = "authentication_error"


class BodyTooLarge(RequestError):
    """The request's body is longer than the endpoint accepts."""

    status = 413
    code = "request_too_large"

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"the request's body is longer than {max_bytes} bytes")


class ResponseNotFound(RequestError):
    """No response of this id is kept, or not for this API key."""

    status = 404
    code = "response_not_found"


class UnknownRoute(RequestError):
    """No such path."""

    status = 404
    code = "unknown_url"


class WrongMethod(RequestError):
    """The path exists, but not for this method."""

    status = 405
    code = "method_not_supported"

    def __init__(self, text: str, allowed: str) -> None:
        """`allowed` lists the methods of the path."""
        super().__init__(text)
        self.allowed = allowed


class ClientLeft(HistrioError):
    """No client waits for the answer any more; the status is for the metrics."""

    status = STATUS_CLIENT_LEFT
    code = "client_closed_request"


class GenerationFailed(EngineError):
    """Generation ended with an error that is not the client's."""

    status = 500
    code = "generation_failed"


_SHOWN = (GenerationFailed, RequestBrokeEngine, PluginFailed)
"""Errors of status 500 whose text is made for clients."""


def from_validation(error: msgspec.ValidationError, prefix: str = "") -> RequestError:
    """A 400 that points at the field, such as `messages[0].role`, from msgspec's text."""
    text = str(error)
    path = ""
    if found := _PATH.search(text):
        path, text = found["path"], text[: found.start()]
    if field := _FIELD.search(text):
        name = field["name"][:MAX_PARAM_CHARS]
        path = f"{path}.{name}" if path else name
        text = "the field is required" if "missing" in text else "unknown field"
    if text.startswith(("Invalid enum value", "Invalid value")):
        text = "not one of the allowed values"

    path = f"{prefix}{path}"
    return RequestError(f"{path}: {text}" if path else text, param=path or None)


def presentable(error: Exception) -> HistrioError:
    """What a client may see of an error. Of a bug it only learns that there is one; the log has the traceback."""
    if isinstance(error, HistrioError) and (error.status != 500 or isinstance(error, _SHOWN)):
        return error

    logger.error("a request failed with an unexpected error", exc_info=error)
    if is_out_of_memory(error):
        return EngineError("there is not enough memory for this request at the moment")
    return HistrioError("internal error; the server's log has the details")


def on_error(request: Request[Any], error: Exception) -> Response:
    """The answer for an error that we raise on purpose, or for a bug."""
    shown = presentable(error)
    edge = request.state
    edge.metrics.count_request(request.path, shown.status)
    sender = request.sender
    if shown.status != STATUS_CLIENT_LEFT and (sender or not edge.keys.asks):
        edge.count_usage(sender, Counts(errors=1))
    if edge.settings.log_requests:
        log_refusal(edge.metrics.label_of(request.path), shown)
    headers = edge.keys.limits_of(sender).headers()
    if isinstance(shown, Overloaded):
        headers["retry-after"] = str(_whole_seconds(shown.retry_after_s))
    elif shown.status == 503:
        headers["retry-after"] = str(RETRY_AFTER_S)
    elif shown.status == 401:
        headers["www-authenticate"] = "Bearer"
    elif isinstance(shown, WrongMethod):
        headers["allow"] = shown.allowed
    body = error_object(shown, request.path)
    return Response(body, status=shown.status, headers=headers)


def _whole_seconds(wanted_s: float) -> int:
    """As the header has to have them; policies may say anything."""
    return max(1, math.ceil(wanted_s)) if 0 <= wanted_s <= _MAX_RETRY_AFTER_S else _MAX_RETRY_AFTER_S
