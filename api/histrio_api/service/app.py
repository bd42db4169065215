"""The litestar application over one `Edge`; any ASGI server can run it."""

from __future__ import annotations

from typing import Any, cast

from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin

from histrio_api.errors import on_error, on_http_exception
from histrio_api.routes import ROUTES
from histrio_api.routes.auth import KeyCheck
from histrio_api.shared.edge import Edge

__all__ = ["create_app"]


def create_app(edge: Edge) -> Litestar:
    """Routes, error handlers and CORS put together."""
    origins = edge.settings.cors_origins
    app = _App(
        ROUTES,
        middleware=[KeyCheck],
        exception_handlers=cast(
            "dict[int | type[Exception], Any]",
            {HTTPException: on_http_exception, Exception: on_error},
        ),
        state=State({"edge": edge}),
        cors_config=CORSConfig(allow_origins=origins) if origins else None,
        openapi_config=None,
        logging_config=None,
    )
    edge.metrics.known_paths = frozenset(path for handler in ROUTES for path in handler.paths if "{" not in path)
    return app


class _App(Litestar):
    """Without the plugins that litestar adds for pydantic and attrs where they are installed: nothing here uses their
    models, and importing them would only take time."""

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        return [*plugins, MsgspecDIPlugin()]
