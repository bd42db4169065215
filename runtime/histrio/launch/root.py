"""The root process: front, edges, and the replica's processes, from start to orderly end.

It serves many and never blocks. The first Ctrl-C (or SIGTERM) drains: no new requests, running ones finish, then edges,
stages and batching stop in this order. The second ends everything at once.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from functools import partial

import anyio
from anyio.abc import TaskGroup

from histrio.actors.liveness import LifeLimits
from histrio.actors.root import replica_actors
from histrio.engine.placement import SizeLimits
from histrio.errors import HistrioError
from histrio.hooks import EdgeContext
from histrio.launch.compose import BatchingParts, Choosers
from histrio.launch.front import Front, FrontSettings
from histrio.launch.local import LocalStage, run_local_replica
from histrio.launch.place import FRONT
from histrio.launch.plan import DEFAULT_BLOCK_SIZE, Plan, field_table
from histrio.launch.policies import admission_policy
from histrio.launch.processes import ReplicaProcesses
from histrio.launch.progress import LoadingProgress
from histrio.net.io_thread import IoThread, LinkLimits
from histrio.net.runtime_dir import runtime_dir
from histrio.plugins import Plugins, installed_plugins

__all__ = ["run"]

log = logging.getLogger(__name__)

_KILLED_BY_USER = 130
_SECRET_BYTES = 16
_LINKS = LinkLimits(heartbeat_interval_ms=0)
"""The front asks the operating system about its children, and loses none of them because it was stopped itself."""
_WATCHERS_GRACE_S = 2.0
"""How long plugins that watch may take for what has not been told them yet."""
_SWITCH_INTERVAL_S = 0.0005
"""A busy thread holds the interpreter at most this long while the loop or the I/O thread wait for it."""


def run(plan: Plan) -> int:
    """Serve the plan until stopped; the process's exit status. Raises `HistrioError` when it cannot go on."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    root = _Root(plan, installed_plugins())
    try:
        anyio.run(root.run, backend_options={"use_uvloop": sys.platform != "win32"})
    except BaseExceptionGroup as group:
        raise _cause(group) from None
    return 0


class _Root:
    def __init__(self, plan: Plan, plugins: Plugins) -> None:
        self._plan = plan
        self._plugins = plugins
        self._stop = anyio.Event()
        self._kill_all: Callable[[], None] = _nothing

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
            tasks.start_soon(self._watch_signals)
            tasks.start_soon(front.run_timer)
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self._replica(front))
                edges = await stack.enter_async_context(self._edges(front))
                await self._serve(front, edges, progress)
            tasks.cancel_scope.cancel()

    async def _serve(self, front: Front, edges: TaskGroup, progress: LoadingProgress) -> None:
        """From loading to drained."""
        edges.start_soon(self._until_failed, front)
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(self._cancel_when_stopped, waiting)
            await front.wait_ready()
            progress.close()
            log.info("%s is ready", self._plan.model.id)
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

    async def _until_failed(self, front: Front) -> None:
        await front.wait_failed()

    @asynccontextmanager
    async def _edges(self, front: Front) -> AsyncIterator[TaskGroup]:
        """Edge services run from the start, so that /health answers while weights load."""
        async with anyio.create_task_group() as tasks:
            for edge in self._plan.edges:
                service = self._plugins.edges.get(edge.name)
                context = EdgeContext(front.gateway, edge.settings, partial(log.info, "listening on %s"))
                tasks.start_soon(service.run, context, name=edge.name)
            yield tasks
            tasks.cancel_scope.cancel()

    @asynccontextmanager
    async def _replica(self, front: Front) -> AsyncIterator[None]:
        plan = self._plan
        if plan.runtime.processes == "one":
            with self._local_replica(front):
                yield
            return

        with runtime_dir() as folder:
            endpoint, secret = f"ipc://{folder / FRONT}", secrets.token_hex(_SECRET_BYTES)
            lost = partial(self._lost, front)
            links = IoThread(FRONT, endpoint, front.directory.deliver, lost, limits=_LINKS, secret=secret)
            front.directory.use(links)
            links.start()
            try:
                processes = ReplicaProcesses(front.root, plan, folder, endpoint, secret)
                front.root.launcher = processes
                self._kill_all = processes.kill_all
                async with processes.run():
                    yield
            finally:
                links.close()

    def _local_replica(self, front: Front) -> AbstractContextManager[None]:
        plan = self._plan
        stages = [LocalStage(stage.spec, self._plugins.stage_backend(stage.backend)) for stage in plan.stages]
        return run_local_replica(
            front,
            stages,
            Choosers.of(self._plugins),
            batching=plan.batching,
            parts=BatchingParts.of(plan.batching, self._plugins),
        )

    def _lost(self, front: Front, process: str) -> None:
        """Called on the I/O thread: a device process cannot be reached."""
        front.call_soon(partial(front.root.lost, process, "cannot be reached"))

    async def _watch_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _signum in signals:
                if self._stop.is_set():
                    self._kill_all()
                    os._exit(_KILLED_BY_USER)
                self._stop.set()


def _nothing() -> None:
    """Until there are processes to kill."""


def _cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The reason in words if there is one, whatever else went down with it."""
    reasons = group.subgroup(HistrioError)
    error: BaseException = group if reasons is None else reasons
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _front_settings(plan: Plan, plugins: Plugins) -> FrontSettings:
    engine, runtime = plan.engine, plan.runtime
    return FrontSettings(
        model=plan.model,
        limits=SizeLimits(
            block_size=engine.kv_block_size or DEFAULT_BLOCK_SIZE,
            num_blocks=engine.num_cache_blocks,
            max_rows=engine.max_batch_size,
            max_step_tokens=engine.max_num_tokens_per_batch,
            max_sequence_length=plan.model.max_sequence_length,
        ),
        actors=replica_actors(plan.num_stages),
        fields=field_table(plugins, plan.model.engine),
        max_unfinished=engine.max_unfinished_requests,
        admission=admission_policy(engine, plugins),
        request_timeout_s=engine.request_timeout_s,
        life_limits=LifeLimits(
            hang_timeout_s=runtime.hang_timeout_s,
            first_step_timeout_s=runtime.first_step_timeout_s,
            start_timeout_s=runtime.start_timeout_s,
            load_timeout_s=runtime.load_timeout_s,
        ),
        max_restarts=runtime.max_restarts,
        restart_window_s=runtime.restart_window_s,
        watching=plugins.watching,
        metrics_interval_s=runtime.metrics_interval_s,
    )
