"""POST /v1/chat/completions."""

from __future__ import annotations

from histrio_api.forms.chat import CHAT
from histrio_api.http.response import Response
from histrio_api.http.routing import post
from histrio_api.routes.common import HttpRequest
from histrio_api.routes.described import described_form
from histrio_api.routes.respond import respond
from histrio_api.schemas.chat import ChatCompletion

__all__ = ["chat_completions"]


@post("/v1/chat/completions", opt=described_form(CHAT, ChatCompletion))
async def chat_completions(request: HttpRequest) -> Response:
    """Answer a chat, at once or as a stream."""
    return await respond(request, CHAT)
