"""GET /schema."""

from __future__ import annotations

from anyio import to_thread
from litestar import get
from litestar.response.base import ASGIResponse
from litestar.routes import HTTPRoute

from histrio_api.routes.common import HttpRequest, edge_of
from histrio_api.routes.openapi import openapi_document

__all__ = ["schema"]


@get(["/schema", "/openapi.json"])
async def schema(request: HttpRequest) -> ASGIResponse:
    """This API as an OpenAPI document."""
    state = request.app.state
    if "schema" not in state:
        routes = [route for route in request.app.routes if isinstance(route, HTTPRoute)]
        handlers = [each for route in routes for each in route.route_handlers]
        state.schema = await to_thread.run_sync(openapi_document, handlers, edge_of(request))
    return ASGIResponse(body=state.schema, headers={"content-type": "application/json"})
