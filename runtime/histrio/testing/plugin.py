"""Registers the toy backend, so that topologies, processes and recovery can be tried without a model."""

from __future__ import annotations

from collections.abc import Callable

from histrio.contracts.backend import BackendFactory
from histrio.contracts.engine_backend import EngineFactory
from histrio.contracts.hooks import hookimpl

__all__ = ["register_backends"]


@hookimpl
def register_backends(register: Callable[[BackendFactory | EngineFactory], None]) -> None:
    """Offer `toy` and `toy-engine`."""
    from histrio.testing.toy import ToyFactory
    from histrio.testing.toy_engine import ToyEngineFactory

    register(ToyFactory())
    register(ToyEngineFactory())
