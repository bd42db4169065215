"""Version 1 of the contract of stage backends, and how its backends are used under the version of today.

In version 1 one object is created, opened, allocated and stepped, and has to be asked in this order. From version 2 on
each of these gives the object that can do the next. A backend of version 1 is its own running stage, so a step costs
nothing more.
"""

from __future__ import annotations

from typing import Protocol, cast

import msgspec

from histrio.contracts.backend import (
    CONTRACT,
    ArrayNamespace,
    BackendFactory,
    OpenedStage,
    Probe,
    Progress,
    ReplicaSize,
    RunningStage,
    StageCapacity,
    StageSpec,
    Traits,
)

__all__ = ["FirstBackendFactory", "StageBackend", "current"]


class StageBackend(RunningStage, Protocol):
    """A layer range on one device, of version 1. All calls come from one thread."""

    @property
    def xp(self) -> ArrayNamespace:
        """The array functions for its logits."""

    def open(self, spec: StageSpec, progress: Progress) -> StageCapacity:
        """Load the weights of the range; answer what fits beside them. Raises `ModelError`, `BackendError`."""

    def allocate(self, size: ReplicaSize) -> None:
        """Make room for `size.num_blocks` blocks and `size.max_slots` slots."""

    def close(self) -> None:
        """Free everything. Safe to call twice, and before `open`."""


class FirstBackendFactory(Protocol):
    """What a plugin of version 1 registers."""

    name: str
    traits: Traits

    def probe(self) -> Probe:
        """Whether this machine can run the backend."""

    def supports(self, spec: StageSpec) -> Probe:
        """Whether it can hold this placement of the model."""

    def create(self) -> StageBackend:
        """A backend that is not yet open."""


def current(factory: BackendFactory | FirstBackendFactory) -> BackendFactory:
    """The factory under the version of today: itself, or what stands for one of version 1."""
    if factory.traits.contract > 1:
        return cast(BackendFactory, factory)

    return _Adapted(cast(FirstBackendFactory, factory))


class _Adapted:
    """A factory of version 1 that opens stages."""

    def __init__(self, factory: FirstBackendFactory) -> None:
        self._factory = factory
        self.name = factory.name
        self.traits = msgspec.structs.replace(factory.traits, contract=CONTRACT)
        if hasattr(factory, "options"):
            self.options = factory.options

    def probe(self) -> Probe:
        """As the factory has it."""
        return self._factory.probe()

    def supports(self, spec: StageSpec) -> Probe:
        """As the factory has it."""
        return self._factory.supports(spec)

    def open(self, spec: StageSpec, progress: Progress) -> OpenedStage:
        """Create a backend and open it; it is closed where that fails."""
        backend = self._factory.create()
        try:
            return _AdaptedStage(backend, backend.open(spec, progress))
        except BaseException:
            backend.close()
            raise


class _AdaptedStage:
    """An opened backend of version 1."""

    def __init__(self, backend: StageBackend, capacity: StageCapacity) -> None:
        self._backend = backend
        self.capacity = capacity

    @property
    def xp(self) -> ArrayNamespace:
        """The backend's own."""
        return self._backend.xp

    def allocate(self, size: ReplicaSize) -> RunningStage:
        """The backend itself, which may step now."""
        self._backend.allocate(size)
        return self._backend

    def close(self) -> None:
        """Close the backend."""
        self._backend.close()
