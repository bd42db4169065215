"""The endpoint as a plugin: an edge service named `api`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from histrio.contracts.gateway import ServedModel
from histrio.contracts.hooks import EdgeContext, EdgeService, hookimpl
from histrio.contracts.reasoning_format import ReasoningFormat
from histrio.contracts.tool_format import ToolFormat
from histrio_api.shared.settings import ApiSettings

if TYPE_CHECKING:
    from histrio_api.text.side import TextSide

__all__ = ["ApiService", "register_edges", "register_reasoning_formats", "register_tool_formats"]


class ApiService:
    """The endpoint, as clients of OpenAI, Anthropic and Ollama know it; `[api]` in a topology."""

    name = "api"
    settings = ApiSettings

    def __init__(self) -> None:
        self._read: dict[str, TextSide] = {}

    def check_model(self, model: ServedModel) -> None:
        """Read tokenizer and template before anything starts. Raises `ModelError` for unusable ones."""
        from histrio_api.text.side import read_text_side

        self._read = {model.path: read_text_side(model)}

    async def run(self, context: EdgeContext) -> None:
        """Serve until cancelled. Raises `ModelError` for an unusable tokenizer, `TopologyError` for the address."""
        from histrio_api.service.service import run_endpoint

        await run_endpoint(context, self._read.pop(context.gateway.model.path, None))


@hookimpl
def register_edges(register: Callable[[EdgeService], None]) -> None:
    """Offer the endpoint."""
    register(ApiService())


@hookimpl
def register_tool_formats(register: Callable[[ToolFormat], None]) -> None:
    """Offer those of the families of models that people run."""
    from histrio_api.text.calls.families.known import FORMATS

    for each in FORMATS:
        register(each)


@hookimpl
def register_reasoning_formats(register: Callable[[ReasoningFormat], None]) -> None:
    """Offer marks and channels."""
    from histrio_api.text.reasoning_formats import FORMATS

    for each in FORMATS:
        register(each)
