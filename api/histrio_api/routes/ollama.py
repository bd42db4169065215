"""POST /api/chat and /api/generate."""

from __future__ import annotations

from litestar import post
from litestar.response.base import ASGIResponse

from histrio_api.forms.ollama import OLLAMA_CHAT, OLLAMA_GENERATE
from histrio_api.routes.common import HttpRequest
from histrio_api.routes.described import described_form
from histrio_api.routes.respond import respond

__all__ = ["ollama_chat", "ollama_generate"]


@post("/api/chat", status_code=200, opt=described_form(OLLAMA_CHAT))
async def ollama_chat(request: HttpRequest) -> ASGIResponse:
    """Answer a chat, as a stream unless told otherwise."""
    return await respond(request, OLLAMA_CHAT)


@post("/api/generate", status_code=200, opt=described_form(OLLAMA_GENERATE))
async def ollama_generate(request: HttpRequest) -> ASGIResponse:
    """Answer a prompt, as a stream unless told otherwise."""
    return await respond(request, OLLAMA_GENERATE)
