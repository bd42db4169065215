"""GET /v1/status: what runs where, how fast, and what happened, as the page shows it and people may poll it."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from histrio.contracts.gateway import GatewayStatus, StageStatus
from histrio_api.http.response import Response
from histrio_api.http.routing import get
from histrio_api.routes.common import HttpRequest, json_response

__all__ = ["status"]

_LATENCIES = ("time_to_first_token_seconds", "inter_token_seconds", "request_seconds")


@get("/v1/status")
async def status(request: HttpRequest) -> Response:
    """All of it is known in the front: asking costs no other process anything."""
    edge = request.state
    model, found = edge.gateway.model, edge.gateway.status
    content = {
        "object": "status",
        "time_s": time.time(),
        "state": found.state,
        "detail": found.detail,
        "progress": round(found.progress, 3),
        "epoch": found.epoch,
        "model": {
            "id": model.id,
            "architecture": model.architecture,
            "num_layers": model.num_layers,
            "max_sequence_length": model.max_sequence_length,
            "engine": model.engine,
        },
        "requests": {
            "unfinished": found.num_unfinished,
            "max_unfinished": found.max_unfinished_requests,
            "running": found.gauges.get("running_sequences", 0),
            "waiting": found.gauges.get("waiting_sequences", 0),
            "replays": found.num_replays,
        },
        "blocks": {
            "used": found.gauges.get("used_blocks", 0),
            "total": found.gauges.get("num_blocks", 0),
            "tokens_per_block": found.gauges.get("block_size", 0),
        },
        "totals": {name: value for name, value in found.counters.items() if "busy_seconds" not in name},
        "latencies": {name: edge.metrics.histograms[name].summary for name in _LATENCIES},
        "stages": [_stage(found.stages[index], found) for index in sorted(found.stages)],
        "events": list(found.events),
    }
    return json_response(content, {"cache-control": "no-store"})


def _stage(stage: StageStatus, found: GatewayStatus) -> dict[str, Any]:
    """The stage, with what its blocks take and what a step of it takes."""
    layer_latency_s = found.gauges.get(f'layer_latency_seconds{{stage="{stage.index}"}}', 0)
    num_tokens = found.gauges.get("num_blocks", 0) * found.gauges.get("block_size", 0)
    known: dict[str, Any] = msgspec.to_builtins(stage)
    return known | {
        "block_bytes": num_tokens * stage.block_bytes_per_token,
        "layer_latency_s": layer_latency_s,
        "latency_s": layer_latency_s * (stage.last_layer - stage.first_layer),
        "busy_s": found.counters.get(f"stage{stage.index}_busy_seconds_total", 0),
    }
