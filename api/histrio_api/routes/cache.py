"""POST /v1/cache/reset."""

from __future__ import annotations

from histrio_api.http.response import Response
from histrio_api.http.routing import post
from histrio_api.routes.auth import ADMIN
from histrio_api.routes.common import HttpRequest, json_response

__all__ = ["reset_cache"]


@post("/v1/cache/reset", opt=ADMIN)
async def reset_cache(request: HttpRequest) -> Response:
    """Forget all prefixes that no running request reads, as before a measurement."""
    request.state.gateway.reset_cache()
    return json_response({"status": "reset"})
