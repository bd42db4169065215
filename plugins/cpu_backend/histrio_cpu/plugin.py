"""Entry point of the distribution: offers the CPU backend to the runtime, without loading its library."""

from __future__ import annotations

from collections.abc import Callable

from histrio.contracts.backend import BackendFactory
from histrio.contracts.hooks import hookimpl

__all__ = ["register_backends"]


@hookimpl
def register_backends(register: Callable[[BackendFactory], None]) -> None:
    """Register the factory named `cpu`."""
    from histrio_cpu.factory import CpuFactory

    register(CpuFactory())
