"""POST /v1/inference."""

from __future__ import annotations

from histrio_api.forms.parallax_pay import INFERENCE
from histrio_api.http.response import Response
from histrio_api.http.routing import post
from histrio_api.routes.common import HttpRequest
from histrio_api.routes.described import described_form
from histrio_api.routes.respond import respond
from histrio_api.schemas.parallax_pay import Inference

__all__ = ["inference"]


@post("/v1/inference", opt=described_form(INFERENCE, Inference))
async def inference(request: HttpRequest) -> Response:
    """Answer a prompt, at once."""
    return await respond(request, INFERENCE)
