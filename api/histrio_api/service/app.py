"""The litestar application over one `Edge`; any ASGI server can run it.

Its handlers are ASGI applications that take our own request and give our own response: litestar finds the path, checks
origins and answers for paths that there are not. Its request and response classes, which suit handlers of any kind,
cost more than all the rest of a short request (`docs/decisions.md`).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeAlias

from litestar import Litestar, Request, asgi
from litestar import Response as LitestarResponse
from litestar.config.cors import CORSConfig
from litestar.exceptions import HTTPException
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from histrio_api.errors import UnknownRoute, WrongMethod, on_error
from histrio_api.http.response import Response
from histrio_api.http.routing import Methods, Route, by_path
from histrio_api.routes import ROUTES
from histrio_api.routes.auth import require_key
from histrio_api.routes.common import HttpRequest
from histrio_api.shared.edge import Edge

__all__ = ["REQUEST_ID", "create_app"]

Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_ID = "x-request-id"
_PLAIN = re.compile(rb"[!-~]{1,128}")
_NOTHING_HERE = "there is nothing at this URL; the API is under /v1"


def create_app(edge: Edge, routes: Iterable[Route] | None = None) -> Litestar:
    """Routes, all that there are unless some are given, with errors and CORS."""
    paths = by_path(ROUTES if routes is None else routes)
    edge.metrics.known_paths = frozenset(path for path in paths if "{" not in path)
    origins = edge.settings.cors_origins

    def on_http_exception(request: Request[Any, Any, Any], _error: HTTPException) -> LitestarResponse[bytes]:
        """Litestar's own: of a path that there is not."""
        ours = HttpRequest(edge, request.scope, request.receive)
        answer = _named(ours, on_error(ours, UnknownRoute(_NOTHING_HERE)))
        return LitestarResponse(
            answer.body, status_code=answer.status, headers=answer.headers, media_type=answer.media_type
        )

    return _App(
        [_handler(edge, path, methods) for path, methods in paths.items()],
        exception_handlers={HTTPException: on_http_exception},
        cors_config=CORSConfig(allow_origins=origins) if origins else None,
        openapi_config=None,
        logging_config=None,
    )


class _App(Litestar):
    """Without the plugins that litestar adds for pydantic and attrs where they are installed: nothing here uses their
    models, and importing them would only take time."""

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        return [*plugins, MsgspecDIPlugin()]


def _handler(edge: Edge, path: str, methods: Methods) -> BaseRouteHandler:
    """All methods of one path."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        request: HttpRequest = HttpRequest(edge, scope, receive)
        request.path_params = {name: str(value).lstrip("/") for name, value in scope["path_params"].items()}
        try:
            response = await _answer(request, methods)
        except Exception as error:
            response = on_error(request, error)
        await _named(request, response).send(receive, send)

    if "{" not in path:
        return asgi(path, copy_scope=False)(answer)

    async def answer_later(request: Request[Any, Any, Any]) -> ASGIResponse:
        """Litestar has parameters in the paths of such handlers only."""
        return _Deferred(answer)

    return HTTPRouteHandler(path, http_method=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])(answer_later)


class _Deferred(ASGIResponse):
    """What answers by itself."""

    def __init__(self, application: Application) -> None:
        super().__init__()
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._application(scope, receive, send)


async def _answer(request: HttpRequest, methods: Methods) -> Response:
    route = methods.get(request.method)
    if route is None:
        return _of_another_method(request, methods)

    require_key(request, route)
    return await route.handler(request)


def _of_another_method(request: HttpRequest, methods: Mapping[str, Route]) -> Response:
    allowed = ", ".join(sorted({*methods, "OPTIONS"}))
    if request.method != "OPTIONS":
        raise WrongMethod("this URL exists, but not for this method", allowed)
    return Response(status=204, headers={"allow": allowed})


def _named(request: HttpRequest, response: Response) -> Response:
    """The response, called as the client calls its request."""
    if _PLAIN.fullmatch(name := request.header(REQUEST_ID.encode())):
        response.headers = {**response.headers, REQUEST_ID: name.decode()}
    return response
