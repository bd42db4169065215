"""Entry point of the distribution: offers the torch backend to the runtime, without importing torch."""

from __future__ import annotations

from collections.abc import Callable

from histrio.contracts.backend import BackendFactory
from histrio.contracts.hooks import hookimpl

__all__ = ["register_backends"]


@hookimpl
def register_backends(register: Callable[[BackendFactory], None]) -> None:
    """Register the factory named `torch`."""
    from histrio_torch.factory import TorchFactory

    register(TorchFactory())
