"""Registers the toy backend, so that topologies, processes and recovery can be tried without a model."""

from __future__ import annotations

from collections.abc import Callable

from histrio.backend import BackendFactory
from histrio.hooks import hookimpl

__all__ = ["register_backends"]


@hookimpl
def register_backends(register: Callable[[BackendFactory], None]) -> None:
    """Offer `toy`."""
    from histrio.testing.toy import ToyFactory

    register(ToyFactory())
