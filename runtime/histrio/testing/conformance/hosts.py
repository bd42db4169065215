"""Where a stage of a chain runs: in this process, or in a worker process that understands the same calls.

A host is a stage actor without mailbox and samplers: it turns the orders of the line into calls of the backend. What a
step gives stays in the host until it is taken, so that a backend which reuses its buffers is found out.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import zmq

from histrio import errors
from histrio.backend import ArrayNamespace, BackendFactory, StageOutput, StageSpec
from histrio.engine.slots import SlotTable
from histrio.errors import BackendError
from histrio.messages import (
    PROTOCOL_VERSION,
    ChildFailed,
    Close,
    Copy,
    Hello,
    Message,
    Open,
    Opened,
    ReplicaSize,
    StageCapacity,
    Start,
    Step,
    StepResult,
    Stop,
    Tensor,
)
from histrio.net import wire
from histrio.net.runtime_dir import runtime_dir

__all__ = ["HERE", "Host", "LocalHost", "RemoteHost", "Taken", "reference_of"]

HERE = "stage"
"""The address of all messages between a chain and its hosts."""

_REPLY_TIMEOUT_S = 300.0
_POLL_MS = 500


@dataclass(frozen=True, slots=True)
class Taken:
    """What one step gave."""

    hidden: list[Tensor]
    logits: npt.NDArray[np.float32] | None
    """[sum(num_sampled), vocab]"""


class Host(Protocol):
    """One stage, wherever it runs."""

    def open(self) -> StageCapacity:
        """Load the stage. Raises what the backend raises."""

    def start(self, size: ReplicaSize) -> None:
        """Allocate, and forget all slots."""

    def tell(self, order: Open | Close | Copy) -> None:
        """One order that has no answer."""

    def step(self, step: Step) -> None:
        """Compute; the output waits to be taken. If the backend raises, the lengths of the slots are as before."""

    def take(self, step: int) -> Taken:
        """The output of the step with this number, once."""

    def close(self) -> None:
        """Close the stage."""


class LocalHost:
    """A stage on this thread."""

    def __init__(self, factory: BackendFactory, spec: StageSpec) -> None:
        self._backend = factory.create()
        self._spec = spec
        self._outputs: dict[int, StageOutput] = {}
        self.told: list[float] = []
        """What the backend said of its progress."""

    @property
    def xp(self) -> ArrayNamespace:
        """The backend's array functions."""
        return self._backend.xp

    def open(self) -> StageCapacity:
        """See `Host`."""
        self._capacity = self._backend.open(self._spec, lambda fraction, text: self.told.append(fraction))
        return self._capacity

    def start(self, size: ReplicaSize) -> None:
        """See `Host`."""
        self._outputs = {}
        self._backend.allocate(size)
        max_blocks = -(-size.max_sequence_length // size.page_size)
        self._table = SlotTable(size.max_rows, max_blocks, self._capacity.first_row, self._capacity.first_page_id)

    def tell(self, order: Open | Close | Copy) -> None:
        """See `Host`."""
        match order:
            case Open():
                self._table.open(order.slot, order.num_cached_tokens)
            case Close(slot):
                self._backend.close_slot(slot + self._capacity.first_row)
            case Copy(src, dst):
                first = self._capacity.first_page_id
                self._backend.copy([page + first for page in src], [page + first for page in dst])

    def step(self, step: Step) -> None:
        """See `Host`."""
        lengths = self._table.lengths.copy()
        try:
            self._outputs[step.step] = self._backend.step(self._table.batch(step))
        except BaseException:
            self._table.lengths[:] = lengths
            raise

    def take(self, step: int) -> Taken:
        """See `Host`."""
        output = self._outputs.pop(step)
        if output.logits is None:
            return Taken(output.hidden, None)

        logits = self._backend.xp.to_host(self._backend.xp.float32(output.logits))
        return Taken(output.hidden, np.array(logits, np.float32))

    def close(self) -> None:
        """See `Host`."""
        self._outputs = {}
        self._backend.close()


class RemoteHost:
    """A stage in a process of its own: `histrio.testing.conformance.worker`."""

    def __init__(self, factory: BackendFactory, spec: StageSpec) -> None:
        self._closing = ExitStack()
        endpoint = f"ipc://{self._closing.enter_context(runtime_dir()) / 'worker'}"
        command = [sys.executable, "-m", "histrio.testing.conformance.worker", endpoint, reference_of(factory)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        spec_text = msgspec.json.encode(spec).decode()
        self._process = subprocess.Popen([*command, spec_text], stdin=subprocess.PIPE, env=environment)
        self._closing.callback(self._end)
        self._context = zmq.Context()
        self._closing.callback(self._context.destroy, 0)
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.REQ)
        self._socket.connect(endpoint)

    def open(self) -> StageCapacity:
        """See `Host`."""
        reply = self._ask(Hello("driver", os.getpid(), PROTOCOL_VERSION))
        assert isinstance(reply, Opened), reply
        return reply.capacity

    def start(self, size: ReplicaSize) -> None:
        """See `Host`."""
        self._ask(Start(0, size))

    def tell(self, order: Open | Close | Copy) -> None:
        """See `Host`."""
        self._ask(order)

    def step(self, step: Step) -> None:
        """See `Host`."""
        self._ask(step)

    def take(self, step: int) -> Taken:
        """See `Host`."""
        reply = self._ask(StepResult(step, 0, []))
        assert isinstance(reply, Step), reply
        hidden = [tensor for tensor in reply.hidden if tensor.name != "logits"]
        logits = [tensor for tensor in reply.hidden if tensor.name == "logits"]
        return Taken(hidden, np.frombuffer(logits[0].data, np.float32).reshape(logits[0].shape) if logits else None)

    def close(self) -> None:
        """Close the stage and end its process. Safe to call twice."""
        if self._process.poll() is None:
            self._ask(Stop())
        self._closing.close()

    def _ask(self, order: Message) -> Message:
        """Send and wait. Raises what the worker raised, or `BackendError` if it died or hangs."""
        self._socket.send_multipart(wire.encode(HERE, order))
        waited_ms = 0
        while not self._socket.poll(_POLL_MS):
            waited_ms += _POLL_MS
            if self._process.poll() is not None or waited_ms > 1000 * _REPLY_TIMEOUT_S:
                raise BackendError(f"the worker of a stage ended ({self._process.poll()}) or hangs; see its output")

        _, reply = wire.decode(self._socket.recv_multipart())
        if isinstance(reply, ChildFailed):
            raise getattr(errors, reply.child, RuntimeError)(reply.error)
        return reply

    def _end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # the worker's sign to end
        self._process.wait(10.0)


def reference_of(factory: BackendFactory) -> str:
    """`module:class` of a factory, by which a worker makes its own."""
    return f"{type(factory).__module__}:{type(factory).__qualname__}"
