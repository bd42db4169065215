"""Stages in processes of their own, for backends that have room for one per process.

Importing such a backend may take seconds and opening a stage milliseconds. So workers outlive their stages: a
`WorkerPool` starts one when none is idle, and gets it back when the stage is closed.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import msgspec

from histrio import errors
from histrio.contracts.backend import BackendFactory, StageSpec
from histrio.errors import BackendError
from histrio.messages import Close, Copy, Open, ReplicaSize, StageCapacity, Step
from histrio.net import wire
from histrio.testing.conformance.array_laws import Values
from histrio.testing.conformance.hosts import HERE, Taken

__all__ = ["Failure", "RemoteHost", "Worker", "WorkerPool"]

_REPLY_TIMEOUT_S = 300.0
_END_TIMEOUT_S = 10.0


class Failure(msgspec.Struct, frozen=True):
    """What a call raised."""

    kind: str
    """Name of its class."""
    text: str
    trace: str
    """Where it was raised, in this process."""


class Worker:
    """One process that runs `histrio.testing.conformance.worker`."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._connection = Connection(ours.detach())
        command = [sys.executable, "-m", "histrio.testing.conformance.worker", str(theirs.fileno())]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with theirs:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, env=environment, pass_fds=[theirs.fileno()]
            )
        self.is_idle = True
        """Whether every call was answered."""

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def call(self, method: str, *arguments: Any) -> Any:
        """Send a call and wait for its answer."""
        self.send(method, *arguments)
        return self.receive()

    def send(self, method: str, *arguments: Any) -> None:
        """Send a call; others wait until it is answered."""
        self.is_idle = False
        try:
            self._connection.send((method, arguments))
        except OSError:
            raise self._gone() from None

    def receive(self) -> Any:
        """The answer. Raises what the worker raised, or `BackendError` if it died or hangs."""
        try:
            if not self._connection.poll(_REPLY_TIMEOUT_S):
                raise BackendError(f"the worker of a stage has not answered for {_REPLY_TIMEOUT_S:g} s")
            answer = self._connection.recv()
        except (EOFError, OSError):
            raise self._gone() from None

        self.is_idle = True
        if isinstance(answer, Failure):
            error: Exception = getattr(errors, answer.kind, RuntimeError)(answer.text)
            error.add_note(f"in a worker process, where it was a {answer.kind}:\n{answer.trace}")
            raise error
        return answer

    def end(self) -> None:
        """End the process: at once in the midst of a call, else by closing the connection. Safe to call twice."""
        self._connection.close()
        if not self.is_idle:
            self._process.kill()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _gone(self) -> BackendError:
        self._connection.close()
        return BackendError(f"the worker of a stage ended with {self._process.wait(_END_TIMEOUT_S)}; see its output")


class WorkerPool:
    """Workers that wait for their next stage, at most `most_idle`; a context manager."""

    def __init__(self, most_idle: int = 4) -> None:
        self._most_idle = most_idle
        self._workers: list[Worker] = []
        self._idle: list[Worker] = []

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def lease(self) -> Worker:
        """A worker without a stage, to be returned."""
        if self._idle:
            return self._idle.pop()

        self._workers.append(Worker())
        return self._workers[-1]

    def take_back(self, worker: Worker) -> None:
        """The worker's stage is closed; one that has failed ends."""
        if worker.is_idle and len(self._idle) < self._most_idle:
            self._idle.append(worker)
            return

        self._workers.remove(worker)
        worker.end()

    def close(self) -> None:
        """End all workers, leased ones too. Safe to call twice."""
        while self._workers:
            self._workers.pop().end()
        self._idle = []


class RemoteHost:
    """A stage in a worker of the pool. It begins to open at once, so that several do so side by side."""

    def __init__(self, factory: BackendFactory, spec: StageSpec, pool: WorkerPool) -> None:
        self._pool = pool
        self._leased: Worker | None = pool.lease()
        self._leased.send("open", f"{type(factory).__module__}:{type(factory).__qualname__}", spec)

    def open(self) -> StageCapacity:
        """See `Host`."""
        capacity: StageCapacity = self._worker.receive()
        return capacity

    def start(self, size: ReplicaSize) -> None:
        """See `Host`."""
        self._worker.call("start", size)

    def tell(self, command: Open | Close | Copy) -> None:
        """See `Host`."""
        self._worker.call("tell", command)

    def step(self, step: Step) -> None:
        """See `Host`."""
        self._worker.call("step_frames", [bytes(frame) for frame in wire.encode(HERE, step)])

    def take(self, step: int) -> Taken:
        """See `Host`."""
        frames, logits, states = self._worker.call("take_frames", step)
        _, taken = wire.decode(frames)
        assert isinstance(taken, Step), taken
        return Taken(taken.hidden, logits, states)

    def progress(self) -> list[float]:
        """See `Host`."""
        told: list[float] = self._worker.call("progress")
        return told

    def computed(self, name: str, values: Values) -> Values:
        """See `Host`."""
        result: Values = self._worker.call("computed", name, values)
        return result

    def close(self) -> None:
        """See `Host`. The worker goes back to the pool."""
        worker, self._leased = self._leased, None
        if worker is None:
            return

        try:
            if worker.is_idle:
                worker.call("close")
        finally:
            self._pool.take_back(worker)

    @property
    def _worker(self) -> Worker:
        assert self._leased is not None, "the stage is closed"
        return self._leased
