"""POST /v1/cache/reset."""

from __future__ import annotations

from litestar import post
from litestar.response.base import ASGIResponse

from histrio_api.routes.auth import ADMIN
from histrio_api.routes.common import HttpRequest, edge_of, json_response

__all__ = ["reset_cache"]


@post("/v1/cache/reset", status_code=200, opt=ADMIN)
async def reset_cache(request: HttpRequest) -> ASGIResponse:
    """Forget all prefixes that no running request reads, as before a measurement."""
    edge_of(request).gateway.reset_cache()
    return json_response({"status": "reset"})
