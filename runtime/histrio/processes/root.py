"""The root process: front, edges, and the replica's processes, from start to orderly end.

It serves many and never blocks. The first Ctrl-C (or SIGTERM, or SIGHUP) drains: no new requests, running ones finish,
then edges and the replica's processes stop in this order. The second ends everything at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import anyio
from anyio.abc import TaskGroup

from histrio.contracts.hooks import EdgeService
from histrio.contracts.options import as_options
from histrio.errors import EngineError
from histrio.net.io_thread import IoThread, LinkLimits
from histrio.net.router import HOST_MARK
from histrio.net.runtime_dir import runtime_dir
from histrio.plan.placement import settle
from histrio.plan.plans import EdgePlan, Plan
from histrio.plan.policies import admission_policy
from histrio.plan.process_names import FRONT
from histrio.plan.resolve import field_table
from histrio.plugins.registry import Plugins, installed_plugins
from histrio.processes.compose import BatchingParts, Choosers
from histrio.processes.front import NO_MEMORY, Front, FrontSettings
from histrio.processes.head import ClusterHead
from histrio.processes.host import Host, LocalHost
from histrio.processes.local import LocalStage, run_local_replica
from histrio.processes.processes import ReplicaProcesses
from histrio.processes.progress import LoadingProgress
from histrio.processes.remote_host import HostsActor
from histrio.processes.services import RestartLimits, Services, first_histrio_error
from histrio.replica.lifecycle import replica_actors

__all__ = ["run"]

log = logging.getLogger(__name__)

_KILLED_BY_USER = 130
_LAST_WORDS_S = 0.2
"""Seconds in which the ends of streams are written before everything ends at once."""
_MOST_DESCRIPTORS = 65536
_SECRET_BYTES = 16
_LINKS = LinkLimits(heartbeat_interval_ms=0)
"""The front asks the operating system about its children, and loses none of them because it was stopped itself."""
_WATCHERS_GRACE_S = 2.0
"""How long plugins that watch may take for what has not been told them yet."""
_SWITCH_INTERVAL_S = 0.0005
"""A busy thread holds the interpreter at most this long while the loop or the I/O thread wait for it."""


def run(plan: Plan, early: subprocess.Popen[bytes] | None = None) -> int:
    """Serve the plan until stopped; the process's exit status. Raises `HistrioError` when it cannot go on.

    `early` is a process of `histrio.processes.early` that becomes the engine's.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    _allow_descriptors()
    root = _Root(plan, installed_plugins(), early)
    try:
        anyio.run(root.run, backend_options={"use_uvloop": find_spec("uvloop") is not None})
    except BaseExceptionGroup as group:
        if group.subgroup(MemoryError) is not None:
            raise EngineError(NO_MEMORY) from None
        raise first_histrio_error(group) or group from None
    log.info("stopped")
    return 0


def _allow_descriptors() -> None:
    """Each connection is one; the usual limit of 1024 is a habit, and any process may raise it up to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class _Root:
    def __init__(self, plan: Plan, plugins: Plugins, early: subprocess.Popen[bytes] | None) -> None:
        self._plan = plan
        self._plugins = plugins
        self._early = early
        self._stop = anyio.Event()
        self._kill_all: Callable[[], None] = _nothing
        self._folder: Path | None = None
        self._hosts: HostsActor | None = None

    async def run(self) -> None:
        plan = self._plan
        with LoadingProgress(len(plan.stages)) as progress:
            front = Front(_front_settings(plan, self._plugins), FRONT, progress.update)
            try:
                await self._run(front, progress)
            finally:
                front.watchers.close(_WATCHERS_GRACE_S)

    async def _run(self, front: Front, progress: LoadingProgress) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch_signals, front)
            tasks.start_soon(front.run_timer)
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self._replica(front))
                services = await stack.enter_async_context(self._services(front))
                await self._serve(front, services, progress)
            tasks.cancel_scope.cancel()

    async def _serve(self, front: Front, services: Services, progress: LoadingProgress) -> None:
        """From loading to drained."""
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(self._cancel_when_stopped, waiting)
            await front.wait_ready()
            progress.close()
            addresses = await services.addresses()
            log.info("%s is ready%s", self._plan.model.id, f" at {', '.join(addresses)}" if addresses else "")
            waiting.cancel_scope.cancel()
        await self._stop.wait()
        front.gateway.drain()
        num_unfinished = front.gateway.num_unfinished
        if num_unfinished:
            log.info("draining %d requests; Ctrl-C again stops at once", num_unfinished)
        with anyio.move_on_after(self._plan.runtime.drain_timeout_s):
            await front.wait_drained()

    async def _cancel_when_stopped(self, waiting: TaskGroup) -> None:
        await self._stop.wait()
        waiting.cancel_scope.cancel()

    @asynccontextmanager
    async def _services(self, front: Front) -> AsyncIterator[Services]:
        """Edge services run from the start, so that /health answers while weights load."""
        runtime = self._plan.runtime
        services = Services(
            [_service(self._plugins, edge) for edge in self._plan.edges],
            front.gateway,
            RestartLimits(runtime.max_restarts, runtime.restart_window_s),
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(services.run)
            tasks.start_soon(front.wait_failed)
            yield services
            tasks.cancel_scope.cancel()

    @asynccontextmanager
    async def _replica(self, front: Front) -> AsyncIterator[None]:
        plan = self._plan
        if plan.runtime.processes == "one":
            with self._local_replica(front):
                yield
            return

        with runtime_dir() as folder:
            self._folder = folder
            endpoint, secret = f"ipc://{folder / FRONT}", secrets.token_hex(_SECRET_BYTES)
            head = None if plan.cluster is None else ClusterHead(plan.cluster)
            links = IoThread(
                FRONT,
                endpoint,
                front.directory.deliver,
                partial(self._lost, front),
                limits=_LINKS,
                secret=secret,
                also=[] if head is None else [head.links_endpoint],
                keys=None if head is None else head.keys,
            )
            front.directory.use(links)
            links.start()
            links.put_off_wakes(asyncio.get_running_loop().call_soon)
            try:
                hosts = None if head is None else head.hosts(front, links)
                here = LocalHost(folder, links, None if hosts is None else lambda: hosts.own_keys, self._early)
                processes = ReplicaProcesses(front.root, plan, links, secret, partial(_wait_for_host, here, hosts))
                front.root.launcher, front.root.network = processes, hosts
                front.root.settle = partial(settle, plan)
                self._kill_all, self._hosts = processes.kill_all, hosts
                async with anyio.create_task_group() as tasks:
                    if head is not None and hosts is not None:
                        hosts.device_processes = lambda: processes.names
                        tasks.start_soon(head.run, hosts, links)
                    async with processes.run():
                        yield
                    tasks.cancel_scope.cancel()
            finally:
                links.close()

    def _local_replica(self, front: Front) -> AbstractContextManager[None]:
        plan = self._plan
        front.root.placements = [stage.placement for stage in plan.stages if stage.placement is not None]
        stages = [LocalStage(stage.spec, self._plugins.stage_backend(stage.backend)) for stage in plan.stages]
        return run_local_replica(
            front,
            stages,
            Choosers.of(self._plugins),
            batching=plan.batching,
            parts=BatchingParts.of(plan.batching, self._plugins),
        )

    def _lost(self, front: Front, process: str) -> None:
        """Called on the I/O thread: a device process, or the agent of a machine, cannot be reached."""
        if self._hosts is not None and process.startswith(HOST_MARK):
            front.call_soon(partial(self._hosts.lost, process, "its link broke"))
        else:
            front.call_soon(partial(front.root.lost, process, "cannot be reached"))

    async def _watch_signals(self, front: Front) -> None:
        watched = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is under nohup
            watched.append(signal.SIGHUP)
        with anyio.open_signal_receiver(*watched) as signals:
            async for signum in signals:
                # A terminal that is closed sends SIGHUP more than once.
                if self._stop.is_set() and signum != signal.SIGHUP:
                    await self._end_at_once(front)
                self._stop.set()

    async def _end_at_once(self, front: Front) -> NoReturn:
        self._kill_all()
        front.root.fail(EngineError("the server was stopped"))
        with anyio.CancelScope(shield=True):
            await anyio.sleep(_LAST_WORDS_S)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        log.info("stopped")
        os._exit(_KILLED_BY_USER)


async def _wait_for_host(here: LocalHost, hosts: HostsActor | None, name: str) -> Host:
    """The machine of this name, once it is there; empty for this one."""
    return here if not name or hosts is None else await hosts.wait_for(name)


def _service(plugins: Plugins, edge: EdgePlan) -> tuple[EdgeService, Any]:
    """The service, and its settings as the struct that it declares."""
    service = plugins.edges.get(edge.name)
    return service, as_options(edge.settings, service.settings, edge.name)


def _nothing() -> None:
    """What `kill_all` is until there are processes."""


def _front_settings(plan: Plan, plugins: Plugins) -> FrontSettings:
    engine = plan.engine
    return FrontSettings(
        model=plan.model,
        actors=replica_actors(plan.num_stages),
        fields=field_table(plugins, plan.model.engine),
        parts={
            "backend": plan.model.engine or ",".join(dict.fromkeys(stage.backend for stage in plan.stages)),
            "drafter": plan.drafter,
            "batching_policy": "" if plan.model.engine else engine.batching.batching_policy,
            "admission_policy": engine.admission.admission_policy,
        },
        stages=[stage.status for stage in plan.stages],
        sizes=engine.sizes,
        admission=engine.admission,
        admission_policy=admission_policy(engine.admission, plugins),
        runtime=plan.runtime,
        watching=plugins.watching,
    )
