"""POST /api/chat and /api/generate."""

from __future__ import annotations

from histrio_api.forms.ollama import OLLAMA_CHAT, OLLAMA_GENERATE
from histrio_api.http.response import Response
from histrio_api.http.routing import post
from histrio_api.routes.common import HttpRequest
from histrio_api.routes.described import described_form
from histrio_api.routes.respond import respond

__all__ = ["ollama_chat", "ollama_generate"]


@post("/api/chat", opt=described_form(OLLAMA_CHAT))
async def ollama_chat(request: HttpRequest) -> Response:
    """Answer a chat, as a stream unless told otherwise."""
    return await respond(request, OLLAMA_CHAT)


@post("/api/generate", opt=described_form(OLLAMA_GENERATE))
async def ollama_generate(request: HttpRequest) -> Response:
    """Answer a prompt, as a stream unless told otherwise."""
    return await respond(request, OLLAMA_GENERATE)
