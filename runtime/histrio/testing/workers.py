"""Long-lived processes that open and close one stage after the other, so that a matrix of splits over real process
borders does not pay for an interpreter and its imports each time.

    with StageWorkers(2) as workers:
        async with serving_with(workers.runner("torch", chunk), folder, cuts=[1], ...) as harness: ...

Each worker may run an interpreter of its own, and each stage be of another backend.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import zmq

from histrio.actors.directory import Directory
from histrio.actors.refs import stage_ref
from histrio.batching.actor import BatchingSpec
from histrio.contracts.backend import StageSpec
from histrio.net.io_thread import Delivery, IoThread
from histrio.net.runtime_dir import runtime_dir
from histrio.plugins.registry import installed_plugins
from histrio.processes.compose import Choosers, DeviceThread, stage_child
from histrio.processes.front import Front
from histrio.processes.local import run_batching
from histrio.replica.lifecycle import HostedActors
from histrio.testing.harness import StageRunner

__all__ = ["StageWorkers"]

DRIVER = "driver"
_REPLY_TIMEOUT_MS = 60_000


class _OpenStage(msgspec.Struct, tag=True):
    index: int
    num_stages: int
    backend: str
    spec: StageSpec


class _CloseStage(msgspec.Struct, tag=True):
    """Stop the stage that is open."""


class StageWorkers:
    """A driver's links and `num_workers` worker processes; a context manager.

    `pythons` are the interpreters of the first workers; the others run this one.
    """

    def __init__(self, num_workers: int, pythons: Sequence[str] = ()) -> None:
        self._pythons = [*pythons, *[sys.executable] * (num_workers - len(pythons))]
        self._closing = ExitStack()
        self._folder = self._closing.enter_context(runtime_dir())
        self._names = [f"worker{index}" for index in range(num_workers)]
        self._front: Front | None = None
        self._links = IoThread(DRIVER, self._endpoint(DRIVER), self._deliver, lambda _process: None)
        self._context = zmq.Context()
        self._controls = {name: self._control(name) for name in self._names}
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> StageWorkers:
        self._links.start()
        for python, name in zip(self._pythons, self._names, strict=True):
            command = [python, "-m", "histrio.testing.workers", str(self._folder), name]
            self._processes.append(subprocess.Popen(command, stdin=subprocess.PIPE))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for control in self._controls.values():
            control.close(0)
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()  # the worker's sign to end
            process.wait(10.0)
        self._links.close()
        self._context.term()
        self._closing.close()

    def runner(self, backends: str | Sequence[str], batching: BatchingSpec) -> StageRunner:
        """For `serving_with`: stage i in worker i, with the backend of this name, or its own of several."""

        @contextmanager
        def run(front: Front, specs: list[StageSpec]) -> Iterator[None]:
            self._front = front
            front.directory.use(self._links)
            front.root.process_started(HostedActors("driver", DRIVER, ["kv", "batching"]))
            used = self._names[: len(specs)]
            of_stage = [backends] * len(specs) if isinstance(backends, str) else backends
            for index, name in enumerate(used):
                actors = [f"stage{index}"]
                front.root.process_started(HostedActors(name, name, actors, self._endpoint(name), used[:index]))
            with run_batching(front, batching):
                for index, (name, backend, spec) in enumerate(zip(used, of_stage, specs, strict=True)):
                    self._ask(name, _OpenStage(index, len(specs), backend, spec))
                try:
                    yield
                finally:
                    for name in used:
                        self._ask(name, _CloseStage())
                    self._front = None

        return run

    def _deliver(self, batch: Delivery) -> None:
        front = self._front
        if front is not None:
            front.directory.deliver(batch)

    def _endpoint(self, name: str) -> str:
        return f"ipc://{self._folder / name}"

    def _control(self, name: str) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.REQ)
        socket.setsockopt(zmq.RCVTIMEO, _REPLY_TIMEOUT_MS)
        socket.connect(self._endpoint(name) + ".control")
        return socket

    def _ask(self, name: str, command: _OpenStage | _CloseStage) -> None:
        control = self._controls[name]
        control.send(msgspec.json.encode(command))
        control.recv()


class _Worker:
    """The worker's side: one stage at a time on a thread of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self._directory = Directory(name)
        self._directory.route({"root": DRIVER, "admission": DRIVER, "metrics": DRIVER})
        self._links = IoThread(name, f"ipc://{folder / name}", self._directory.deliver, lambda _process: None)
        self._directory.use(self._links)
        self._links.start()
        self._links.connect(DRIVER, f"ipc://{folder / DRIVER}")
        self._device: DeviceThread | None = None
        self._thread: threading.Thread | None = None

    def handle(self, command: _OpenStage | _CloseStage) -> None:
        """Carry out one command of the driver."""
        self._close()
        if isinstance(command, _OpenStage):
            self._open(command)

    def _open(self, command: _OpenStage) -> None:
        plugins = installed_plugins()
        factory = plugins.stage_backend(command.backend)
        child = stage_child(command.index, command.spec, factory, Choosers.of(plugins), self._directory.tell)
        self._device = DeviceThread(self._directory, [child])
        self._thread = threading.Thread(target=self._device.run, name=stage_ref(command.index), daemon=True)
        self._thread.start()

    def _close(self) -> None:
        if self._device is not None and self._thread is not None:
            self._device.stop()
            self._thread.join()
        self._device = self._thread = None


def _main(folder: Path, name: str) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    worker = _Worker(folder, name)
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_OpenStage | _CloseStage)
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REP)
    socket.bind(f"ipc://{folder / name}.control")
    while True:
        worker.handle(decoder.decode(socket.recv()))
        socket.send(b"")


def _end_with_parent() -> None:
    """Standard input ends when the driver closes it, or dies."""
    import os

    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2])
