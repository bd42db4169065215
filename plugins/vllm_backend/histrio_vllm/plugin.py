"""Entry point of the distribution: offers the engine backend on vLLM, without importing it."""

from __future__ import annotations

from collections.abc import Callable

from histrio.contracts.backend import BackendFactory
from histrio.contracts.engine_backend import EngineFactory
from histrio.contracts.hooks import hookimpl
from histrio_vllm.factory import VllmEngineFactory

__all__ = ["register_backends"]


@hookimpl
def register_backends(register: Callable[[BackendFactory | EngineFactory], None]) -> None:
    """Called once at start-up."""
    register(VllmEngineFactory())
