"""The child processes of a replica: started in order, restarted within limits, stopped all at once."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import msgspec

from histrio.actors.refs import BATCHING, stage_ref
from histrio.errors import BackendError, EngineError, WireError
from histrio.messages import FailedStep
from histrio.net.io_thread import IoThread
from histrio.plan.plans import Plan
from histrio.plan.process_names import ENGINE_PROCESS, FRONT
from histrio.processes.device import DeviceProcess
from histrio.processes.host import Host, HostedProcess
from histrio.replica.lifecycle import HostedActors, RootActor
from histrio.replica.liveness import ProcessView

__all__ = ["ReplicaProcesses", "device_processes"]

log = logging.getLogger(__name__)

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
        links: IoThread,
        secret: str,
        wait_for_host: Callable[[str], Awaitable[Host]],
    ) -> None:
        """`wait_for_host` gives the machine of this name, empty for that of the front, once it is there."""
        self._root = root
        self._roles = device_processes(plan, secret)
        self._pythons = {stage.process: stage.python for stage in plan.stages if stage.python}
        self._machines = {stage.process: stage.host for stage in plan.stages}
        self._wait_for_host = wait_for_host
        self._links = links
        self._running: dict[str, HostedProcess] = {}
        self._is_stopping = False

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

    @property
    def names(self) -> list[str]:
        """The processes that run."""
        return list(self._running)

    def kill(self, process: str, reason: str) -> None:
        """End a hung or silent process; its task then starts another, which waits for its end only a moment."""
        child = self._running.get(process)
        if child is not None and not self._is_stopping:
            log.warning("killing process %s: it %s", process, reason)
            child.kill()

    def look(self, process: str) -> ProcessView | None:
        """What the operating system says of it."""
        child = self._running.get(process)
        return None if child is None else child.look()

    def failed_step(self, process: str) -> FailedStep | None:
        """The step that it is in, or that it ended in."""
        child = self._running.get(process)
        return None if child is None else child.failed_step()

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
            spec = msgspec.structs.replace(role, process=f"{role.process}.{incarnation}")
            host = await self._wait_for_host(self._machines.get(role.process, ""))
            await self._run_once(role, spec, host)
            if self._is_stopping or self._root.failure is not None:
                return
            await anyio.sleep(self._root.restarts.delay_s)

    async def _run_once(self, role: DeviceProcess, spec: DeviceProcess, host: Host) -> None:
        """Start one incarnation, wait for its end, and tell root how it ended."""
        self._root.process_started(self._hosted(role, spec, host))
        child = await self._start(role, spec, host)
        if isinstance(child, str):
            self._root.process_exited(spec.process, f"could not be started: {child}")
            return

        self._running[spec.process] = child
        reason = await child.wait_or_abandon()
        del self._running[spec.process]
        if not self._is_stopping:
            log.warning("process %s %s", spec.process, reason)
        step = child.failed_step()
        self._root.process_exited(spec.process, reason, is_own_doing=child.died_of_itself, step=step)

    async def _start(self, role: DeviceProcess, spec: DeviceProcess, host: Host) -> HostedProcess | str:
        """The process; why not, if the system could start none for a while: it may lack descriptors or space, say."""
        reason = ""
        for delay_s in _SPAWN_DELAYS_S:
            try:
                return await host.start(spec, self._pythons.get(role.process))
            except BackendError as error:
                self._root.fail(error)
                return str(error)
            except (EngineError, WireError) as error:
                reason = str(error)
                log.warning("process %s: %s; trying again in %g s", spec.process, reason, delay_s)
            await anyio.sleep(delay_s)
        return reason

    def _hosted(self, role: DeviceProcess, spec: DeviceProcess, host: Host) -> HostedActors:
        machine = self._machines.get(role.process, "")
        return HostedActors(
            role.process,
            spec.process,
            spec.actors,
            host.endpoint(spec.process),
            dials=self._dials(role),
            machine=machine,
        )

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
