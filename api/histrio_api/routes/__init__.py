"""The endpoint's URLs, one file for each group."""

from __future__ import annotations

from litestar.handlers import HTTPRouteHandler

from histrio_api.routes.anthropic import count_tokens, messages
from histrio_api.routes.cache import reset_cache
from histrio_api.routes.chat import chat_completions
from histrio_api.routes.completions import completions
from histrio_api.routes.models import list_models, show_model
from histrio_api.routes.state import health, liveness, metrics, version
from histrio_api.routes.tokenize import detokenize, tokenize

__all__ = ["ROUTES"]

ROUTES: list[HTTPRouteHandler] = [
    chat_completions,
    completions,
    count_tokens,
    detokenize,
    health,
    list_models,
    liveness,
    messages,
    metrics,
    reset_cache,
    show_model,
    tokenize,
    version,
]
