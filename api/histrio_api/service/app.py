"""The application over one `Edge`: it finds a request's route, asks for its key, and makes answers of errors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from histrio_api.errors import UnknownRoute, WrongMethod, on_error
from histrio_api.http.request import Receive
from histrio_api.http.response import Response, Send
from histrio_api.http.routing import Methods, Route, Router
from histrio_api.routes import ROUTES
from histrio_api.routes.auth import require_key
from histrio_api.routes.common import HttpRequest
from histrio_api.shared.edge import Edge

__all__ = ["REQUEST_ID", "App"]


REQUEST_ID = "x-request-id"
_PLAIN = re.compile(rb"[!-~]{1,128}")


class App:
    """An ASGI application; HEAD is left to what stands before it."""

    def __init__(self, edge: Edge, routes: Iterable[Route] | None = None) -> None:
        """`routes` are all of them unless they are given."""
        routes = ROUTES if routes is None else routes
        self._edge = edge
        self._router = Router(routes)
        edge.metrics.known_paths = frozenset(path for route in routes for path in route.paths if "{" not in path)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request: HttpRequest = HttpRequest(self._edge, scope, receive)
        try:
            response = await self._response(request)
        except Exception as error:
            response = on_error(request, error)
        if _PLAIN.fullmatch(name := request.header(REQUEST_ID.encode())):
            response.headers = {**response.headers, REQUEST_ID: name.decode()}  # as the client calls it
        await response.send(receive, send)

    async def _response(self, request: HttpRequest) -> Response:
        request.path, methods, request.path_params = self._router.find(request.path)
        route = methods.get(request.method)
        if route is None:
            return _without_route(request, methods)

        require_key(request, route)
        return await route.handler(request)


def _without_route(request: HttpRequest, methods: Methods) -> Response:
    """Of a method that a path has not, or a path that there is not."""
    if not methods:
        raise UnknownRoute("there is nothing at this URL; the API is under /v1")
    allowed = ", ".join(sorted({*methods, "OPTIONS"}))
    if request.method != "OPTIONS":
        raise WrongMethod("this URL exists, but not for this method", allowed)
    return Response(status=204, headers={"allow": allowed})
