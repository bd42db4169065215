"""Entry point of the distribution: offers what runs on SGLang, without importing it."""

from __future__ import annotations

from collections.abc import Callable

from histrio.contracts.backend import BackendFactory
from histrio.contracts.engine_backend import EngineFactory
from histrio.contracts.hooks import hookimpl
from histrio_sglang.engine_factory import SglangEngineFactory
from histrio_sglang.factory import SglangFactory

__all__ = ["register_backends"]


@hookimpl
def register_backends(register: Callable[[BackendFactory | EngineFactory], None]) -> None:
    """Called once at start-up."""
    register(SglangFactory())
    register(SglangEngineFactory())
