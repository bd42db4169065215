"""llama.cpp's own URLs: /completion, /infill, /props and /slots."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import Any

from histrio.errors import EngineError
from histrio_api.forms.llama_cpp import INFILL, LLAMA_COMPLETION
from histrio_api.http.response import Response
from histrio_api.http.routing import get, post
from histrio_api.routes.common import HttpRequest, end_tokens, json_response
from histrio_api.routes.described import described_form
from histrio_api.routes.respond import respond
from histrio_api.shared.edge import Edge

__all__ = ["infill", "llama_completion", "llama_props", "llama_slots"]

_MAX_SHOWN_SLOTS = 1024


@post(["/completion", "/completions"], opt=described_form(LLAMA_COMPLETION))
async def llama_completion(request: HttpRequest) -> Response:
    """Continue one or several prompts, at once or as a stream."""
    return await respond(request, LLAMA_COMPLETION)


@post("/infill", opt=described_form(INFILL))
async def infill(request: HttpRequest) -> Response:
    """Fill the gap between two texts."""
    return await respond(request, INFILL)


@get("/props")
async def llama_props(request: HttpRequest) -> Response:
    """What the model is, and how many requests run side by side."""
    edge = request.state
    model, status = edge.gateway.model, edge.gateway.status
    bos_token, eos_token = end_tokens(edge)
    content = {
        "default_generation_settings": {"n_ctx": model.max_sequence_length, "params": model.default_sampling},
        "total_slots": status.max_unfinished_requests,
        "model_alias": model.id,
        "model_path": model.id,
        "chat_template": "" if edge.template is None else edge.template.source,
        "bos_token": bos_token or "",
        "eos_token": eos_token or "",
        "modalities": {"vision": False, "audio": False},
        "is_sleeping": False,
        "build_info": f"histrio-{installed_version('histrio')}",
    }
    return json_response(content)


@get("/slots")
async def llama_slots(request: HttpRequest) -> Response:
    """A slot for each request that may run; as many of them are busy as requests are unfinished."""
    edge = request.state
    status = edge.gateway.status
    if "fail_on_no_slot" in request.query and status.num_unfinished >= status.max_unfinished_requests:
        raise EngineError("all slots are busy; try again soon")
    return json_response([_slot(edge, at) for at in range(min(status.max_unfinished_requests, _MAX_SHOWN_SLOTS))])


def _slot(edge: Edge, at: int) -> dict[str, Any]:
    gateway = edge.gateway
    return {
        "id": at,
        "n_ctx": gateway.model.max_sequence_length,
        "is_processing": at < gateway.status.num_unfinished,
        "speculative": gateway.model.honours.max_speculation,
    }
