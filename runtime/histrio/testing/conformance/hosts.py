"""Where a stage of a chain runs: on this thread, or (`remote.py`) in a worker process that understands the same calls.

A host is a stage actor without mailbox and samplers: it turns commands into calls of the backend. What a step
gives stays in the host until it is taken, so that a backend which reuses its buffers is found out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import Array, BackendFactory, OpenedStage, StageOutput, StageSpec
from histrio.contracts.first_contract import FirstBackendFactory, current
from histrio.contracts.options import with_options
from histrio.errors import BackendError, TopologyError
from histrio.messages import Close, Copy, Open, ReplicaSize, StageCapacity, Step, Tensor
from histrio.stage.slots import SlotTable
from histrio.testing.conformance.array_laws import Values, computed

__all__ = ["HERE", "Host", "LocalHost", "Taken", "checked_spec"]

HERE = "stage"
"""The address of all messages between a chain and its hosts."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What one step gave."""

    hidden: list[Tensor]
    logits: npt.NDArray[np.float32] | None
    """[sum(num_sampled), vocab]"""
    states: npt.NDArray[np.float32] | None = None
    """[sum(num_pooled), hidden]"""


class Host(Protocol):
    """One stage, wherever it runs."""

    def open(self) -> StageCapacity:
        """Load the stage. Raises what the backend raises."""

    def start(self, size: ReplicaSize) -> None:
        """Allocate, and forget all slots."""

    def tell(self, command: Open | Close | Copy) -> None:
        """One command that has no answer."""

    def step(self, step: Step) -> None:
        """Compute; the output waits to be taken. If the backend raises, the lengths of the slots are as before."""

    def take(self, step: int) -> Taken:
        """The output of the step with this number, once."""

    def progress(self) -> list[float]:
        """What the backend said of its progress while it opened."""

    def computed(self, name: str, values: Values) -> Values:
        """The array function of `ARRAY_LAWS` with this name, on the backend's arrays."""

    def close(self) -> None:
        """Close the stage. Safe to call twice."""


def checked_spec(spec: StageSpec, factory: object) -> StageSpec:
    """With options as the factory declares them. Raises `BackendError` that names what is wrong."""
    try:
        return with_options(spec, factory, "options")
    except TopologyError as error:
        raise BackendError(str(error)) from None


class LocalHost:
    """A stage on this thread."""

    def __init__(self, factory: BackendFactory | FirstBackendFactory, spec: StageSpec) -> None:
        self._factory, self._spec = current(factory), spec
        self._opened: OpenedStage | None = None
        self._outputs: dict[int, StageOutput] = {}
        self._told: list[float] = []

    def open(self) -> StageCapacity:
        """See `Host`."""
        spec = checked_spec(self._spec, self._factory)
        self._opened = self._stage = self._factory.open(spec, lambda fraction, text: self._told.append(fraction))
        return self._stage.capacity

    def start(self, size: ReplicaSize) -> None:
        """See `Host`."""
        self._outputs = {}
        self._running, self._capacity = self._stage.allocate(size), self._stage.capacity
        max_blocks = -(-size.max_sequence_length // size.block_size)
        self._table = SlotTable(size.max_slots, max_blocks, self._capacity.first_slot, self._capacity.first_block_id)

    def tell(self, command: Open | Close | Copy) -> None:
        """See `Host`."""
        match command:
            case Open():
                self._table.open(command.slot, command.num_cached_tokens)
            case Close(slot):
                self._running.close_slot(slot + self._capacity.first_slot)
            case Copy(src, dst):
                first = self._capacity.first_block_id
                self._running.copy([block + first for block in src], [block + first for block in dst])

    def step(self, step: Step) -> None:
        """See `Host`."""
        lengths = self._table.lengths.copy()
        try:
            self._outputs[step.step] = self._running.step(self._table.batch(step))
        except BaseException:
            self._table.lengths[:] = lengths
            raise

    def take(self, step: int) -> Taken:
        """See `Host`."""
        output = self._outputs.pop(step)
        return Taken(output.hidden, self._on_host(output.logits), self._on_host(output.states))

    def progress(self) -> list[float]:
        """See `Host`."""
        return self._told

    def computed(self, name: str, values: Values) -> Values:
        """See `Host`."""
        return computed(self._stage.xp, name, values)

    def _on_host(self, array: Array | None) -> npt.NDArray[np.float32] | None:
        """A copy of what the backend may overwrite."""
        return None if array is None else np.array(self._stage.xp.to_host(self._stage.xp.float32(array)), np.float32)

    def close(self) -> None:
        """See `Host`."""
        self._outputs = {}
        if self._opened is not None:
            self._opened.close()
