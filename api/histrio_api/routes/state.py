"""GET /health, /health/live, /metrics and /version."""

from __future__ import annotations

from importlib.metadata import version as installed_version

import msgspec
from litestar import get
from litestar.response.base import ASGIResponse

from histrio_api.errors import RETRY_AFTER_S
from histrio_api.routes.common import HttpRequest, edge_of, json_response
from histrio_api.shared.metrics import exposition

__all__ = ["health", "liveness", "metrics", "version"]

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@get("/health")
async def health(request: HttpRequest) -> ASGIResponse:
    """200 if requests are generated now, else 503 with the reason and how far loading is."""
    status = edge_of(request).gateway.status
    content = {
        "status": status.state,
        "detail": status.detail,
        "progress": round(status.progress, 3),
        "unfinished_requests": status.num_unfinished,
    }
    if status.state == "ready":
        return json_response(content)

    headers = {"retry-after": str(RETRY_AFTER_S)}
    return ASGIResponse(body=msgspec.json.encode(content), status_code=503, headers=headers)


@get("/health/live")
async def liveness() -> ASGIResponse:
    """200 as long as this process answers at all."""
    return json_response({"status": "alive"})


@get("/metrics")
async def metrics(request: HttpRequest) -> ASGIResponse:
    """Prometheus text."""
    edge = edge_of(request)
    return ASGIResponse(body=exposition(edge.metrics, edge.gateway.status), headers={"content-type": METRICS_TYPE})


@get("/version")
async def version() -> ASGIResponse:
    """The installed version of histrio."""
    return json_response({"version": installed_version("histrio")})
