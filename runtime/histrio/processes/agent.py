"""The agent of a machine that has joined: runs device processes on order of the head, and says how they are.

It serves many and never blocks. When the link to the head is lost, its processes end, and it asks at the door again.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
from anyio.abc import TaskGroup

from histrio.actors.directory import Directory
from histrio.actors.mailbox import Actor, LoopDispatcher
from histrio.actors.refs import HOSTS, ToAgent, refuse
from histrio.children.child import ChildSpec
from histrio.children.spawn import ChildProcess, spawn
from histrio.errors import HistrioError, WireError
from histrio.messages import (
    PROTOCOL_VERSION,
    ChildEnded,
    EndChild,
    FailedStep,
    HostBeat,
    HostedChild,
    HostUp,
    Message,
    SpawnChild,
)
from histrio.net.endpoints import curve_endpoint, own_address
from histrio.net.io_thread import IoThread
from histrio.net.keys import HostKey
from histrio.net.router import HOST_MARK
from histrio.net.runtime_dir import runtime_dir
from histrio.plan.process_names import FRONT
from histrio.processes.device import DeviceProcess
from histrio.processes.host import DEVICE_ENTRY, failed_step
from histrio.processes.process_view import look

__all__ = ["Head", "serve"]

log = logging.getLogger(__name__)

_GRACE_S = 2.0


class Head(msgspec.Struct, frozen=True):
    """The head of a cluster, as this machine reaches it."""

    name: str
    peer_id: str
    address: str
    port: int
    """Of its encrypted links."""


async def serve(head: Head, key: HostKey) -> str:
    """Be a machine of the cluster until the link is lost; says why it was. Ends all processes before it returns."""
    with runtime_dir() as folder:
        async with anyio.create_task_group() as tasks:
            agent = _Agent(head, key, folder)
            try:
                agent.start()
                tasks.start_soon(agent.run_commands, tasks)
                reason = await agent.wait_lost()
            finally:
                with anyio.CancelScope(shield=True):
                    await agent.end_all()
                agent.close()
            tasks.cancel_scope.cancel()
    return reason


class _Child:
    def __init__(self, process: ChildProcess, record: Path) -> None:
        self.process = process
        self.record = record
        self.step: FailedStep | None = None
        """What the beat before saw it in."""


class _Agent(Actor[ToAgent]):
    def __init__(self, head: Head, key: HostKey, folder: Path) -> None:
        self._head, self._key, self._folder = head, key, folder
        self._commands: asyncio.Queue[Callable[[], Coroutine[Any, Any, None]]] = asyncio.Queue()
        """What the head has ordered: each is a task of its own, which a handler cannot start."""
        self._name = f"{HOST_MARK}{key.peer_id}.{time.time_ns() // 1_000_000}"
        self._children: dict[str, _Child] = {}
        self._lost = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._directory = Directory(self._name)
        self._links = IoThread(
            self._name, None, self._directory.deliver, self._note_lost, keys=key.links([head.peer_id])
        )
        self._directory.use(self._links)
        self._directory.host(self._name, LoopDispatcher(self._loop, self._failed), self)

    def start(self) -> None:
        """Dial the head and introduce this machine."""
        head = self._head
        own = own_address(head.address)
        self._links.start()
        self._directory.route({HOSTS: FRONT})
        self._links.connect(FRONT, curve_endpoint(f"{head.address}:{head.port}", head.peer_id))
        self._directory.tell(HOSTS, HostUp(self._name, PROTOCOL_VERSION, own, head.address))
        self._links.beat(FRONT, self._beat, actor=HOSTS)

    def receive(self, message: ToAgent) -> None:
        """A command of the head."""
        match message:
            case SpawnChild():
                self._commands.put_nowait(partial(self._run, message))
            case EndChild(process, grace_s):
                child = self._children.get(process)
                if child is not None:
                    self._commands.put_nowait(partial(self._end, child, grace_s))
            case _:
                refuse("an agent", message)

    async def run_commands(self, tasks: TaskGroup) -> None:
        """Carry out what the head orders."""
        while True:
            tasks.start_soon(await self._commands.get())

    async def wait_lost(self) -> str:
        """Wait until the head cannot be reached; says so."""
        await self._lost.wait()
        return f"the link to {self._head.name} is lost"

    async def end_all(self) -> None:
        """Stop all processes, at once."""
        self._links.leave()
        async with anyio.create_task_group() as ending:
            for child in list(self._children.values()):
                ending.start_soon(child.process.terminate, _GRACE_S)

    def close(self) -> None:
        """End the link."""
        self._links.close(0.0)

    async def _run(self, command: SpawnChild) -> None:
        """One process, from its start to its end."""
        record = self._folder / f"{command.process}.flight"
        try:
            spec = self._completed(command, record)
            log.info("starting %s for %s", command.process, self._head.name)
            child = _Child(
                await spawn(ChildSpec(DEVICE_ENTRY, msgspec.to_builtins(spec), command.process), python=command.python),
                record,
            )
        except (HistrioError, msgspec.MsgspecError) as error:
            self._ended(ChildEnded(command.process, f"could not be started: {error}", is_own_doing=True))
            return

        self._children[command.process] = child
        reason = await child.process.wait_or_abandon()
        self._children.pop(command.process, None)
        log.info("%s %s", command.process, reason)
        step = failed_step(record)
        self._ended(ChildEnded(command.process, reason, is_own_doing=child.process.died_of_itself, step=step))
        record.unlink(missing_ok=True)

    def _completed(self, command: SpawnChild, record: Path) -> DeviceProcess:
        """What only this machine can say: its key and its files. Raises `WireError` if the model is not here."""
        spec = msgspec.json.decode(command.payload, type=DeviceProcess)
        for stage in spec.stages:
            if not Path(stage.spec.model).exists():
                raise WireError(f"the model is not on {socket.gethostname()}: there is no {stage.spec.model}")
        admitted = [] if spec.keys is None else spec.keys.admitted
        return msgspec.structs.replace(spec, record=str(record), keys=self._key.links(admitted))

    def _ended(self, news: ChildEnded) -> None:
        self._directory.tell(HOSTS, news)

    @staticmethod
    async def _end(child: _Child, grace_s: float) -> None:
        if grace_s:
            await child.process.terminate(grace_s)
        else:
            child.process.kill()

    def _beat(self) -> HostBeat:
        """On the I/O thread: how the processes are."""
        return HostBeat(self._name, [self._seen(name, child) for name, child in list(self._children.items())])

    @staticmethod
    def _seen(name: str, child: _Child) -> HostedChild:
        view = look(child.process.pid)
        before, child.step = child.step, failed_step(child.record)
        is_same = before is not None and child.step is not None and before.step == child.step.step
        step = child.step if is_same else None
        if view is None:
            return HostedChild(name, False, 0.0, 0.0, step)
        return HostedChild(name, view.is_stopped, view.cpu_s, view.work_s(), step)

    def _note_lost(self, _process: str) -> None:
        """On the I/O thread: the head cannot be reached."""
        self._loop.call_soon_threadsafe(self._lost.set)

    def _failed(self, _name: str, error: BaseException, _message: Message | None) -> None:
        log.error("the agent failed on a message of the head", exc_info=error)
