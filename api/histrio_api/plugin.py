"""The endpoint as a plugin: an edge service named `api`."""

from __future__ import annotations

from collections.abc import Callable

from histrio.hooks import EdgeContext, EdgeService, hookimpl
from histrio_api.settings import ApiSettings

__all__ = ["ApiService", "register_edges"]


class ApiService:
    """The OpenAI-compatible endpoint; `[api]` in a topology."""

    name = "api"
    settings = ApiSettings

    async def run(self, context: EdgeContext) -> None:
        """Serve until cancelled. Raises `ModelError` for an unusable tokenizer, `TopologyError` for the address."""
        from histrio_api.service import run_endpoint

        await run_endpoint(context)


@hookimpl
def register_edges(register: Callable[[EdgeService], None]) -> None:
    """Offer the endpoint."""
    register(ApiService())
