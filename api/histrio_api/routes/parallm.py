"""MLX ParaLLM's URLs: /v1/generate, /v1/generate_batch and /v1/stats."""

from __future__ import annotations

from histrio_api.forms.parallm import GENERATE, GENERATE_BATCH
from histrio_api.http.response import Response
from histrio_api.http.routing import get, post
from histrio_api.routes.common import HttpRequest, json_response
from histrio_api.routes.described import described_form
from histrio_api.routes.respond import respond
from histrio_api.schemas.parallm import GeneratedText, GeneratedTexts

__all__ = ["generate", "generate_batch", "stats"]


@post("/v1/generate", opt=described_form(GENERATE, GeneratedText))
async def generate(request: HttpRequest) -> Response:
    """Continue a prompt, at once or as a stream."""
    return await respond(request, GENERATE)


@post("/v1/generate_batch", opt=described_form(GENERATE_BATCH, GeneratedTexts))
async def generate_batch(request: HttpRequest) -> Response:
    """Continue several prompts side by side."""
    return await respond(request, GENERATE_BATCH)


@get("/v1/stats")
async def stats(request: HttpRequest) -> Response:
    """What was done since the start: /metrics has it too, and more."""
    edge = request.state
    counters, gauges = edge.gateway.status.counters, edge.gateway.status.gauges
    requests = edge.metrics.histograms["request_seconds"].summary

    def share(part: str, whole: str) -> float:
        num = counters.get(f"{whole}_total", 0)
        return counters.get(f"{part}_total", 0) / num if num else 0.0

    content = {
        "total_requests": requests["count"],
        "average_latency": requests["sum"] / max(requests["count"], 1),
        "batching_stats": {
            "total_batches": counters.get("steps_total", 0),
            "avg_batch_size": share("scheduled_rows", "steps"),
            "total_tokens": counters.get("generated_tokens_total", 0),
            "running": gauges.get("running_sequences", 0),
            "waiting": gauges.get("waiting_sequences", 0),
        },
        "speculative_stats": {
            "acceptance_rate": share("accepted_tokens", "drafted_tokens"),
            "draft_length": share("drafted_tokens", "drafted_rows"),
        },
    }
    return json_response(content)
