"""Entry point of the distribution: offers what runs on SGLang and vLLM, without importing either."""

from __future__ import annotations

from collections.abc import Callable

from histrio.backend import BackendFactory
from histrio.engine_backend import EngineFactory
from histrio.hooks import hookimpl
from histrio_sglang.engine_factory import SglangEngineFactory
from histrio_sglang.factory import SglangFactory
from histrio_sglang.vllm_factory import VllmEngineFactory

__all__ = ["register_backends"]


@hookimpl
def register_backends(register: Callable[[BackendFactory | EngineFactory], None]) -> None:
    """Called once at start-up."""
    register(SglangFactory())
    register(SglangEngineFactory())
    register(VllmEngineFactory())
