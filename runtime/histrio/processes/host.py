"""A machine that runs device processes: the same few things can be asked of this one and of others in the cluster."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from histrio.children.child import ChildSpec
from histrio.children.spawn import ChildProcess, spawn
from histrio.messages import FailedRow, FailedStep
from histrio.net.io_thread import IoThread
from histrio.net.keys import LinkKeys
from histrio.net.runtime_dir import check_room
from histrio.plan.process_names import ENGINE_PROCESS, FRONT
from histrio.processes.device import DeviceProcess
from histrio.processes.process_view import look
from histrio.replica.liveness import ProcessView
from histrio.system.flight_record import read_flight

__all__ = ["DEVICE_ENTRY", "Host", "HostedProcess", "LocalHost", "failed_step"]

log = logging.getLogger(__name__)

DEVICE_ENTRY = "histrio.processes.device:run_device_process"


class HostedProcess(Protocol):
    """A device process that was started on a host."""

    @property
    def died_of_itself(self) -> bool:
        """Whether it has ended by its own doing: nothing outside can have ended it."""

    async def wait_or_abandon(self) -> str:
        """Wait for its end and say in words how it ended; after `kill` only for a moment."""

    async def terminate(self, grace_s: float = 5.0) -> str:
        """Have it stop in order, and end it after `grace_s`; says how it ended."""

    def kill(self) -> None:
        """End it now."""

    def look(self) -> ProcessView | None:
        """What the operating system says of it; None where nothing is known."""

    def failed_step(self) -> FailedStep | None:
        """The step that it is in, or that it ended in; None where nothing is known."""


class Host(Protocol):
    """Starts processes on one machine."""

    async def start(self, spec: DeviceProcess, python: str | None) -> HostedProcess:
        """Start a process of this name; where it listens and keeps its record is the host's to decide.

        Raises `BackendError` if it can never be, `EngineError` or `WireError` if only not now.
        """

    def endpoint(self, process: str) -> str:
        """Where a process of that name can be dialled by others on the same machine; empty for at no such place."""


class LocalHost:
    """The machine of the front."""

    def __init__(
        self,
        folder: Path,
        links: IoThread,
        keys: Callable[[], LinkKeys] | None = None,
        early: subprocess.Popen[bytes] | None = None,
    ) -> None:
        """With `keys` its processes listen for those of other machines. `early` is a process of
        `histrio.processes.early`, which becomes the first engine process."""
        self._folder = folder
        self._links = links
        self._keys = keys
        self._early = early
        self._front_socket = folder / FRONT

    def endpoint(self, process: str) -> str:
        """A socket in the folder of the run."""
        return f"ipc://{self._folder / process}"

    async def start(self, spec: DeviceProcess, python: str | None) -> HostedProcess:
        """As a child of this process."""
        self._make_room(spec.process)
        record = self._folder / f"{spec.process}.flight"
        spec = msgspec.structs.replace(
            spec,
            endpoint=self.endpoint(spec.process),
            front_endpoint=f"ipc://{self._front_socket}",
            record=str(record),
            keys=None if self._keys is None else self._keys(),
        )
        child_spec = ChildSpec(DEVICE_ENTRY, msgspec.to_builtins(spec), spec.process)
        is_engine = spec.process.partition(".")[0] == ENGINE_PROCESS and python is None
        child = await (self._begin_early(child_spec) if is_engine and self._early else spawn(child_spec, python=python))
        return _LocalProcess(child, record)

    async def _begin_early(self, spec: ChildSpec) -> ChildProcess:
        assert self._early is not None
        child, self._early = ChildProcess(spec.name, self._early), None
        await child.begin(spec)
        return child

    def _make_room(self, newcomer: str) -> None:
        """Raises `WireError` if the folder cannot take the newcomer's files. A program that clears temporary files may
        have removed the folder, with the front's socket."""
        check_room(self._folder)
        if not self._front_socket.exists():
            log.warning("the socket %s was removed; the front listens anew", self._front_socket)
            self._front_socket = self._folder / f"{FRONT}-{newcomer}"
            self._links.listen_also(f"ipc://{self._front_socket}")


class _LocalProcess:
    def __init__(self, child: ChildProcess, record: Path) -> None:
        self._child = child
        self._record = record

    @property
    def died_of_itself(self) -> bool:
        return self._child.died_of_itself

    async def wait_or_abandon(self) -> str:
        return await self._child.wait_or_abandon()

    async def terminate(self, grace_s: float = 5.0) -> str:
        return await self._child.terminate(grace_s)

    def kill(self) -> None:
        self._child.kill()

    def look(self) -> ProcessView | None:
        return look(self._child.pid)

    def failed_step(self) -> FailedStep | None:
        return failed_step(self._record)


def failed_step(record: Path) -> FailedStep | None:
    """The step that a process with this record is in, or ended in."""
    flight = read_flight(record)
    if flight is None or not (flight.rows or flight.code):
        return None
    rows = [FailedRow(*row) for row in flight.rows]
    return FailedStep(flight.step, rows, flight.code, is_request_code=flight.is_request_code)
