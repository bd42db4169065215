"""GET /schema."""

from __future__ import annotations

from collections.abc import Sequence

from anyio import to_thread

from histrio_api.http.response import Response
from histrio_api.http.routing import Route, get
from histrio_api.routes.common import HttpRequest
from histrio_api.routes.openapi import openapi_document

__all__ = ["schema_route"]


def schema_route(routes: Sequence[Route]) -> Route:
    """The route of the document about these routes."""

    @get(["/schema", "/openapi.json"])
    async def schema(request: HttpRequest) -> Response:
        """This API as an OpenAPI document."""
        edge = request.state
        if not edge.openapi:
            edge.openapi = await to_thread.run_sync(openapi_document, routes, edge)
        return Response(edge.openapi)

    return schema
