"""The child processes of a replica: started in order, restarted within limits, stopped all at once."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec

from histrio.actors.refs import BATCHING, stage_ref
from histrio.children.child import ChildSpec
from histrio.children.spawn import ChildProcess, spawn
from histrio.errors import BackendError, EngineError, WireError
from histrio.messages import FailedRow, FailedStep
from histrio.net.io_thread import IoThread
from histrio.net.runtime_dir import check_room
from histrio.plan.plans import Plan
from histrio.plan.process_names import ENGINE_PROCESS, FRONT
from histrio.processes.device import DeviceProcess, record_file
from histrio.processes.process_view import look
from histrio.replica.lifecycle import HostedActors, RootActor
from histrio.replica.liveness import ProcessView
from histrio.system.flight_record import read_flight

__all__ = ["ReplicaProcesses", "device_processes"]

log = logging.getLogger(__name__)

_ENTRY = "histrio.processes.device:run_device_process"
_GRACE_S = 5.0
_LINKS_CHECK_S = 0.5
_SPAWN_DELAYS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0)


def device_processes(plan: Plan, secret: str = "") -> list[DeviceProcess]:
    """What each process of the plan hosts, by role; names and endpoints come with an incarnation."""
    return [
        DeviceProcess(
            process=role,
            endpoint="",
            front_endpoint="",
            secret=secret,
            stages=[stage for stage in plan.stages if stage.process == role],
            num_stages=plan.num_stages,
            batching=plan.batching if role == ENGINE_PROCESS and plan.num_stages > 0 else None,
            log_format=plan.runtime.log_format,
            log_level=plan.runtime.log_level,
        )
        for role in plan.processes
        if role != FRONT
    ]


class ReplicaProcesses:
    """Runs one task per process role; tells root what starts and what ends."""

    def __init__(
        self,
        root: RootActor,
        plan: Plan,
        folder: Path,
        links: IoThread,
        secret: str,
        early: subprocess.Popen[bytes] | None = None,
    ) -> None:
        """`early` is a process of `histrio.processes.early` that waits for the engine's order."""
        self._root = root
        self._roles = device_processes(plan, secret)
        self._pythons = {stage.process: stage.python for stage in plan.stages if stage.python}
        self._folder = folder
        self._links = links
        self._front_socket = folder / FRONT
        self._running: dict[str, ChildProcess] = {}
        self._is_stopping = False
        self._early = early

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Keep all processes running while the block runs; then stop them, all at once: nothing runs any more."""
        async with anyio.create_task_group() as tasks:
            for role in self._roles:
                tasks.start_soon(self._keep_running, role)
            tasks.start_soon(self._watch_links)
            try:
                yield
            finally:
                self._is_stopping = True
                for name in self._running:
                    self._root.process_leaving(name)
                with anyio.CancelScope(shield=True):
                    async with anyio.create_task_group() as stopping:
                        for child in self._running.values():
                            stopping.start_soon(child.terminate, _GRACE_S)
                tasks.cancel_scope.cancel()

    def kill(self, process: str, reason: str) -> None:
        """End a hung or silent process; its task then starts another, which waits for its end only a moment."""
        child = self._running.get(process)
        if child is not None and not self._is_stopping:
            log.warning("killing process %s: it %s", process, reason)
            child.kill()

    def look(self, process: str) -> ProcessView | None:
        """What the operating system says of it."""
        child = self._running.get(process)
        return None if child is None else look(child.pid)

    def failed_step(self, process: str) -> FailedStep | None:
        """The step that it is in, or that it ended in."""
        flight = read_flight(record_file(self._endpoint(process)))
        if flight is None or not (flight.rows or flight.code):
            return None
        rows = [FailedRow(*row) for row in flight.rows]
        return FailedStep(flight.step, rows, flight.code, is_request_code=flight.is_request_code)

    def kill_all(self) -> None:
        """At once, without any grace."""
        self._is_stopping = True
        for child in self._running.values():
            child.kill()

    async def _watch_links(self) -> None:
        """Fail for good when the links have failed, because no process can be reached without them."""
        while not self._links.has_failed:  # noqa: ASYNC110 - a thread that failed may be unable to tell
            await anyio.sleep(_LINKS_CHECK_S)
        self._root.fail(EngineError("the front's links to its processes have failed; what it wrote stands above"))

    async def _keep_running(self, role: DeviceProcess) -> None:
        incarnation = 0
        while not self._is_stopping:
            incarnation += 1
            spec = self._incarnation(role, incarnation)
            await self._run_once(role, spec)
            if self._is_stopping or self._root.failure is not None:
                return
            await anyio.sleep(self._root.restarts.delay_s)

    async def _run_once(self, role: DeviceProcess, spec: DeviceProcess) -> None:
        """Start one incarnation, wait for its end, and tell root how it ended."""
        self._root.process_started(self._host(role, spec))
        child = await self._spawn(role, spec)
        if isinstance(child, str):
            self._root.process_exited(spec.process, f"could not be started: {child}")
            return

        self._running[spec.process] = child
        reason = await child.wait_or_abandon()
        del self._running[spec.process]
        if not self._is_stopping:
            log.warning("process %s %s", spec.process, reason)
        step = self.failed_step(spec.process)
        record_file(spec.endpoint).unlink(missing_ok=True)
        self._root.process_exited(spec.process, reason, is_own_doing=child.died_of_itself, step=step)

    async def _spawn(self, role: DeviceProcess, spec: DeviceProcess) -> ChildProcess | str:
        """The process; why not, if the system could start none for a while: it may lack descriptors or space, say."""
        reason = ""
        for delay_s in _SPAWN_DELAYS_S:
            try:
                self._make_room(spec.process)
                started = msgspec.structs.replace(spec, front_endpoint=f"ipc://{self._front_socket}")
                child = ChildSpec(_ENTRY, msgspec.to_builtins(started), spec.process)
                python = self._pythons.get(role.process)
                if role.process == ENGINE_PROCESS and self._early is not None and python is None:
                    return await self._begin_early(child)
                return await spawn(child, python=python)
            except BackendError as error:
                self._root.fail(error)
                return str(error)
            except (EngineError, WireError) as error:
                reason = str(error)
                log.warning("process %s: %s; trying again in %g s", spec.process, reason, delay_s)
            await anyio.sleep(delay_s)
        return reason

    async def _begin_early(self, spec: ChildSpec) -> ChildProcess:
        assert self._early is not None
        child, self._early = ChildProcess(spec.name, self._early), None
        await child.begin(spec)
        return child

    def _incarnation(self, role: DeviceProcess, count: int) -> DeviceProcess:
        name = f"{role.process}.{count}"
        return msgspec.structs.replace(role, process=name, endpoint=self._endpoint(name))

    def _endpoint(self, process: str) -> str:
        return f"ipc://{self._folder / process}"

    def _make_room(self, newcomer: str) -> None:
        """Raises `WireError` if the folder cannot take the newcomer's files. A program that clears temporary files may
        have removed the folder, with the front's socket."""
        check_room(self._folder)
        if not self._front_socket.exists():
            log.warning("the socket %s was removed; the front listens anew", self._front_socket)
            self._front_socket = self._folder / f"{FRONT}-{newcomer}"
            self._links.listen_also(f"ipc://{self._front_socket}")

    def _host(self, role: DeviceProcess, spec: DeviceProcess) -> HostedActors:
        return HostedActors(role.process, spec.process, spec.actors, spec.endpoint, dials=self._dials(role))

    def _dials(self, role: DeviceProcess) -> list[str]:
        """Earlier processes this one exchanges messages with: one connection per pair, dialled by the later one."""
        earlier = self._roles[: self._roles.index(role)]
        return [other.process for other in earlier if _are_linked(other, role)]


def _are_linked(one: DeviceProcess, other: DeviceProcess) -> bool:
    """Whether any actor of one tells an actor of the other."""
    last = one.num_stages - 1
    line = [{BATCHING, stage_ref(0)}, {BATCHING, stage_ref(last)}]
    line += [{stage_ref(index), stage_ref(index + 1)} for index in range(last)]
    return any(pair.intersection(one.actors) and pair.intersection(other.actors) for pair in line)
