"""POST /v1/inference."""

from __future__ import annotations

from litestar import post
from litestar.response.base import ASGIResponse

from histrio_api.forms.parallax_pay import INFERENCE
from histrio_api.routes.common import HttpRequest
from histrio_api.routes.described import described_form
from histrio_api.routes.respond import respond
from histrio_api.schemas.parallax_pay import Inference

__all__ = ["inference"]


@post("/v1/inference", status_code=200, opt=described_form(INFERENCE, Inference))
async def inference(request: HttpRequest) -> ASGIResponse:
    """Answer a prompt, at once."""
    return await respond(request, INFERENCE)
