"""The machines of the cluster as the front sees them: their agents introduce themselves, beat, and run processes.

A machine is here from the first message of its agent until its link is lost or its beats stay away. With it go all of
its processes. When it returns, under a new number of the same name, nothing runs on it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio
import msgspec

from histrio.actors.directory import Directory
from histrio.actors.mailbox import Actor
from histrio.actors.refs import ToHosts, agent_ref, process_ref, refuse
from histrio.errors import EngineError
from histrio.hosts.members import Members
from histrio.messages import (
    PROTOCOL_VERSION,
    ChildEnded,
    EndChild,
    FailedStep,
    HostBeat,
    HostedChild,
    HostUp,
    Machines,
    SpawnChild,
)
from histrio.net.endpoints import curve_endpoint
from histrio.net.io_thread import IoThread
from histrio.net.keys import LinkKeys
from histrio.net.router import HOST_MARK
from histrio.processes.device import DeviceProcess
from histrio.processes.host import Host, HostedProcess
from histrio.replica.liveness import ProcessView

__all__ = ["HostsActor", "RemoteHost"]

log = logging.getLogger(__name__)

_ABANDON_AFTER_S = 3.0
"""Seconds after which the end of a process that was killed is not waited for any longer."""
_SILENT_AFTER_S, _LOST_AFTER_S = 2.0, 5.0
"""A short drop of a wireless network is waited for."""


@dataclass(slots=True)
class _View:
    """What the last beat said of a process."""

    is_stopped: bool
    cpu_s: float
    worked_s: float

    def work_s(self) -> float:
        return self.worked_s


class _RemoteProcess:
    """A process on another machine, known by what its agent tells."""

    def __init__(self, name: str, end: Callable[[float], None]) -> None:
        self.name = name
        self._end = end
        self._ended = anyio.Event()
        self._killed = anyio.Event()
        self._reason = "was killed, but its machine has not said that it ended"
        self._is_own_doing = False
        self.beat: HostedChild | None = None
        self._step: FailedStep | None = None

    @property
    def died_of_itself(self) -> bool:
        return self._is_own_doing

    async def wait_or_abandon(self) -> str:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._abandon, tasks.cancel_scope)
            await self._ended.wait()
            tasks.cancel_scope.cancel()
        return self._reason

    async def terminate(self, grace_s: float = 5.0) -> str:
        self._end(grace_s)
        with anyio.move_on_after(grace_s + _ABANDON_AFTER_S):
            await self._ended.wait()
        return self._reason

    def kill(self) -> None:
        self._end(0.0)
        self._killed.set()

    def look(self) -> ProcessView | None:
        return None if self.beat is None else _View(self.beat.is_stopped, self.beat.cpu_s, self.beat.worked_s)

    def failed_step(self) -> FailedStep | None:
        return self._step if self.beat is None else self._step or self.beat.step

    def ended(self, reason: str, *, is_own_doing: bool = False, step: FailedStep | None = None) -> None:
        """Its machine says so, or is lost."""
        self._reason, self._is_own_doing, self._step = reason, is_own_doing, step
        self._ended.set()

    async def _abandon(self, waiting: anyio.CancelScope) -> None:
        await self._killed.wait()
        await anyio.sleep(_ABANDON_AFTER_S)
        waiting.cancel()


class RemoteHost:
    """One machine that is here, from its agent's first message on."""

    def __init__(self, name: str, peer_id: str, up: HostUp, hosts: HostsActor, now: float) -> None:
        self.name = name
        self.peer_id = peer_id
        self.agent = up.agent
        self.address = up.address
        self.head_address = up.head_address
        self.heard_at = now
        self.is_silent = False
        self.is_here = True
        self.processes: dict[str, _RemoteProcess] = {}
        self._hosts = hosts

    def endpoint(self, process: str) -> str:
        """Its processes dial each other as those of other machines do."""
        return ""

    async def start(self, spec: DeviceProcess, python: str | None) -> HostedProcess:
        """Have the agent start it. Raises `EngineError` if the machine has gone meanwhile."""
        if not self.is_here:
            raise EngineError(f"{self.name} is not here any more")
        process = _RemoteProcess(spec.process, lambda grace_s: self._tell_end(spec.process, grace_s))
        self.processes[spec.process] = process
        spec = msgspec.structs.replace(
            spec, front_endpoint=self._hosts.front_endpoint(self), keys=LinkKeys("", "", self._hosts.peer_ids)
        )
        self._hosts.tell(self, SpawnChild(spec.process, msgspec.json.encode(spec), python))
        return process

    def _tell_end(self, process: str, grace_s: float) -> None:
        if self.is_here:
            self._hosts.tell(self, EndChild(process, grace_s))


class HostsActor(Actor[ToHosts]):
    """On the front's loop: which machines are here, and what their processes do."""

    def __init__(
        self,
        directory: Directory,
        links: IoThread,
        members: Members,
        keys: LinkKeys,
        links_port: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._links = links
        self._members = members
        self._keys = keys
        self._links_port = links_port
        self._clock = clock
        self._hosts: dict[str, RemoteHost] = {}
        """By agent."""
        self._changed = anyio.Event()
        self._admitted: dict[str, str] = {}
        """Peer id → name, of all machines on the list."""
        self._version = -1
        self.device_processes: Callable[[], Sequence[str]] = tuple
        """Names of the device processes that run."""

    @property
    def present(self) -> list[RemoteHost]:
        """The machines that are here."""
        return list(self._hosts.values())

    @property
    def peer_ids(self) -> list[str]:
        """Of all machines whose processes may dial each other, this one among them."""
        return [self._keys.peer_id, *(host.peer_id for host in self._hosts.values())]

    @property
    def own_keys(self) -> LinkKeys:
        """What a process of this machine gets."""
        return msgspec.structs.replace(self._keys, admitted=self.peer_ids)

    def find(self, name: str) -> RemoteHost | None:
        """The machine of this name, if it is here."""
        return next((host for host in self._hosts.values() if host.name == name), None)

    async def wait_for(self, name: str) -> Host:
        """The machine of this name, once it is here."""
        host = self.find(name)
        if host is None:
            log.info("waiting for the machine %s to join", name)
        while host is None:
            await self._changed.wait()
            host = self.find(name)
        return host

    def endpoint(self, machine: str, port: int, dialler: str) -> str:
        """Where a process of machine `dialler` dials the one that listens at this port of `machine`."""
        host, own = self.find(machine), self.find(dialler)
        if host is not None:
            return curve_endpoint(f"{host.address}:{port}", host.peer_id)
        address = "127.0.0.1" if own is None else own.head_address
        return curve_endpoint(f"{address}:{port}", self._keys.peer_id)

    def front_endpoint(self, host: RemoteHost) -> str:
        """Where processes of this host dial the front."""
        return curve_endpoint(f"{host.head_address}:{self._links_port}", self._keys.peer_id)

    def tell(self, host: RemoteHost, message: SpawnChild | EndChild) -> None:
        """A command to its agent."""
        self._directory.tell(agent_ref(host.agent), message)

    def receive(self, message: ToHosts) -> None:
        """News of one machine."""
        match message:
            case HostUp():
                self._up(message)
            case HostBeat(agent, children):
                self._beat(agent, children)
            case ChildEnded(process, reason, is_own_doing, step):
                for host in self._hosts.values():
                    ended = host.processes.pop(process, None)
                    if ended is not None:
                        ended.ended(reason, is_own_doing=is_own_doing, step=step)
            case _:
                refuse("hosts", message)

    def check(self) -> None:
        """Twice a second: machines that are silent, and changes of the list by `histrio hosts`."""
        self.read_members()
        for host in self.present:
            silent_s = self._clock() - host.heard_at
            if silent_s > _LOST_AFTER_S:
                self.lost(host.agent, f"it has said nothing for {silent_s:.1f} s")
            elif silent_s > _SILENT_AFTER_S and not host.is_silent:
                host.is_silent = True
                log.warning("nothing has come from %s for %.1f s", host.name, silent_s)

    def read_members(self) -> None:
        """Admit the machines on the list, and put out those that are no longer on it."""
        version = self._members.version
        if version == self._version:
            return
        self._version = version
        admitted = {member.peer_id: member.name for member in self._members.all()}
        for peer_id in admitted.keys() - self._admitted.keys():
            self._links.admit(peer_id)
        for peer_id in self._admitted.keys() - admitted.keys():
            self._links.expel(peer_id)
        self._admitted = admitted
        for host in self.present:
            if host.peer_id not in admitted:
                self.lost(host.agent, "it was removed from the list of admitted machines")

    def lost(self, agent: str, reason: str) -> None:
        """A machine cannot be reached any more; nothing that runs there counts."""
        host = self._hosts.pop(agent, None)
        if host is None:
            return
        host.is_here = False
        log.warning("%s is lost: %s", host.name, reason)
        self._directory.forget(agent)
        for process in host.processes.values():
            process.ended(f"is lost with its machine {host.name}")
        self._tell_changed()

    def _up(self, up: HostUp) -> None:
        peer_id = up.agent.removeprefix(HOST_MARK).partition(".")[0]
        self.read_members()
        name = self._admitted.get(peer_id)
        if name is None:
            return
        for other in self.present:
            if other.peer_id == peer_id:
                self.lost(other.agent, "its agent has started anew")
        self._directory.route({up.agent: up.agent})
        if up.protocol != PROTOCOL_VERSION:
            log.error("%s speaks protocol %d, this machine %d", name, up.protocol, PROTOCOL_VERSION)
            self._directory.forget(up.agent)
            return
        self._hosts[up.agent] = RemoteHost(name, peer_id, up, self, self._clock())
        log.info("%s is here, at %s", name, up.address)
        for process in self.device_processes():
            self._directory.tell(process_ref(process), Machines(self.peer_ids))
        self._tell_changed()

    def _beat(self, agent: str, children: list[HostedChild]) -> None:
        host = self._hosts.get(agent)
        if host is None:
            return
        host.heard_at, host.is_silent = self._clock(), False
        for child in children:
            process = host.processes.get(child.process)
            if process is not None:
                process.beat = child

    def _tell_changed(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
