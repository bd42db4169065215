"""GET /health, /ready, /ping, /health/live, /load, /metrics and /version."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import Any

import msgspec

from histrio_api.errors import RETRY_AFTER_S
from histrio_api.http.response import Response
from histrio_api.http.routing import get
from histrio_api.routes.auth import ANY_KEY, METRICS, OPEN, is_known
from histrio_api.routes.common import HttpRequest, json_response
from histrio_api.shared.metrics import exposition

__all__ = ["health", "liveness", "load", "metrics", "version"]

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@get(["/health", "/ping", "/ready"], opt=OPEN)
async def health(request: HttpRequest) -> Response:
    """200 if requests are generated now, else 503 with how far loading is. The reason may need a key."""
    status = request.state.gateway.status
    content: dict[str, Any] = {"status": status.state, "progress": round(status.progress, 3)}
    if is_known(request):
        content |= {"detail": status.detail, "unfinished_requests": status.num_unfinished}
    if status.state == "ready":
        return json_response(content)

    headers = {"retry-after": str(RETRY_AFTER_S)}
    return Response(msgspec.json.encode(content), status=503, headers=headers)


@get("/health/live", opt=OPEN)
async def liveness(request: HttpRequest) -> Response:
    """200 as long as this process answers at all."""
    return json_response({"status": "alive"})


@get("/load")
async def load(request: HttpRequest) -> Response:
    """How many requests are unfinished, as vLLM has it."""
    return json_response({"server_load": request.state.gateway.status.num_unfinished})


@get("/metrics", opt=METRICS)
async def metrics(request: HttpRequest) -> Response:
    """Prometheus text."""
    edge = request.state
    return Response(exposition(edge.metrics, edge.gateway.status).encode(), headers={"content-type": METRICS_TYPE})


@get("/version", opt=ANY_KEY)
async def version(request: HttpRequest) -> Response:
    """The installed version of histrio."""
    return json_response({"version": installed_version("histrio")})
