"""POST /v1/completions."""

from __future__ import annotations

from histrio_api.forms.completions import COMPLETION
from histrio_api.http.response import Response
from histrio_api.http.routing import post
from histrio_api.routes.common import HttpRequest
from histrio_api.routes.described import described_form
from histrio_api.routes.respond import respond
from histrio_api.schemas.completions import Completion

__all__ = ["completions"]


@post("/v1/completions", opt=described_form(COMPLETION, Completion))
async def completions(request: HttpRequest) -> Response:
    """Continue one or several prompts, at once or as a stream."""
    return await respond(request, COMPLETION)
