"""The front: admission, metrics and root on one event loop. It serves many and never blocks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio

from histrio.actors.directory import Directory
from histrio.actors.mailbox import LoopDispatcher
from histrio.actors.refs import ADMISSION, METRICS, ROOT
from histrio.actors.supervisor import Supervisor
from histrio.config.settings import AdmissionSettings, SizeSettings
from histrio.config.topology import RuntimeTable
from histrio.contracts.gateway import ServedModel, StageStatus
from histrio.contracts.observed import IntervalStats
from histrio.contracts.policy import AdmissionPolicy
from histrio.contracts.request_fields import FieldTable
from histrio.errors import EngineError, is_out_of_memory
from histrio.front.admission import AdmissionActor
from histrio.front.metrics import MetricsActor
from histrio.front.requests import RequestTable
from histrio.front.status_notes import StatusNotes
from histrio.front.watchers import Watchers
from histrio.messages import Message
from histrio.plugins.hook_calls import Implementation
from histrio.replica.lifecycle import RootActor
from histrio.replica.sizing import SizeLimits

__all__ = ["NO_MEMORY", "Front", "FrontSettings", "info_gauge"]

log = logging.getLogger(__name__)

_TIMER_S = 0.5
NO_MEMORY = (
    "the front has no memory left; raise its limit (ulimit -v, the container's), or lower api.max-body-bytes and "
    "engine.max-unfinished-requests"
)


@dataclass(frozen=True, slots=True)
class FrontSettings:
    """What the front's actors need to know."""

    model: ServedModel
    actors: frozenset[str]
    """Actors of a complete replica: `histrio.replica.lifecycle.replica_actors`."""
    fields: FieldTable
    """Which request fields are honoured."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """What is chosen by name: part → name, for /metrics."""
    stages: Sequence[StageStatus] = ()
    """As they are planned."""
    sizes: SizeSettings = SizeSettings()
    admission: AdmissionSettings = AdmissionSettings()
    admission_policy: AdmissionPolicy | None = None
    """The policy that decides which requests are accepted; None: all for which there are credits."""
    runtime: RuntimeTable = RuntimeTable()
    watching: Sequence[Implementation] = ()
    """The hooks of plugins that watch."""


class Front:
    """The three actors of the front process and the timer they share. Make it inside a running loop."""

    def __init__(
        self,
        settings: FrontSettings,
        process: str = "root",
        on_loading: Callable[[int, float, str], None] | None = None,
    ) -> None:
        self.directory = Directory(process)
        self.dispatcher = LoopDispatcher(asyncio.get_running_loop(), self._on_failure)
        self.watchers = Watchers(settings.watching)
        table = RequestTable(settings.admission.max_unfinished_requests, policy=settings.admission_policy)
        table.on_finished = lambda record: self.watchers.tell("on_request_finished", record=record)
        self.gateway = AdmissionActor(
            self.directory.tell,
            settings.model,
            table,
            settings.fields,
            request_timeout_s=settings.admission.request_timeout_s,
        )
        if settings.parts:
            self.gateway.status.gauges[info_gauge(settings.parts)] = 1
        self._on_loading = on_loading
        self._loop = asyncio.get_running_loop()
        self.root = RootActor(
            self.directory,
            SizeLimits(settings.sizes, settings.model.max_sequence_length),
            settings.actors,
            on_loading=self._loading,
            runtime=settings.runtime,
        )
        self.root.on_failed = self._failed
        self._notes = StatusNotes(self.gateway.status, settings.stages)
        self.root.on_opened, self.root.on_placed = self._notes.opened, self._notes.placed
        self._failures: Counter[str] = Counter()
        self._interval_s = settings.runtime.metrics_interval_s
        self._interval_began_s = time.monotonic()
        self.directory.host(ROOT, self.dispatcher, self.root)
        self.directory.host(ADMISSION, self.dispatcher, self.gateway)
        self.directory.host(METRICS, self.dispatcher, MetricsActor(self.gateway.status))
        self._supervisor: Supervisor | None = None
        self._changed = asyncio.Event()
        self.gateway.on_change = self._on_change

    def call_soon(self, call: Callable[[], None]) -> None:
        """Run `call` on the front's loop; for other threads."""
        self._loop.call_soon_threadsafe(call)

    def supervise(self, supervisor: Supervisor) -> None:
        """Failures of this supervisor's children on the front's loop go to it (one-process topology)."""
        self._supervisor = supervisor

    async def wait_ready(self) -> None:
        """Wait until requests flow. Raises what made the replica fail for good."""
        while self.gateway.status.state not in ("ready", "failed"):
            await self._changed.wait()
            self._changed.clear()
        if self.root.failure is not None:
            raise self.root.failure

    async def wait_failed(self) -> None:
        """Wait until the replica has failed for good, and raise why."""
        while self.root.failure is None:
            self._changed.clear()
            await self._changed.wait()
        raise self.root.failure

    async def wait_drained(self) -> None:
        """Wait until every accepted request has ended."""
        while self.gateway.num_unfinished:
            await self._changed.wait()
            self._changed.clear()

    async def run_timer(self) -> None:
        """Time-outs of requests and hung processes, twice a second."""
        while True:
            await anyio.sleep(_TIMER_S)
            self.gateway.expire()
            self.root.check_processes()
            self._tell_interval()

    def _tell_interval(self) -> None:
        """Give the numbers of the past interval to the hooks that watch, and the numbers they return to `/metrics`."""
        status, now = self.gateway.status, time.monotonic()
        status.plugin_metrics = self.watchers.metrics
        interval_s = now - self._interval_began_s
        if interval_s < self._interval_s or not self.watchers.wants("on_interval"):
            return

        self._interval_began_s = now
        stats = IntervalStats(
            state=status.state,
            epoch=status.epoch,
            interval_s=interval_s,
            num_unfinished=status.num_unfinished,
            counters=dict(status.counters),
            gauges=dict(status.gauges),
        )
        self.watchers.tell("on_interval", stats=stats)

    def _on_change(self) -> None:
        self._notes.changed()
        self._changed.set()

    def _failed(self, actor: str, error: str) -> None:
        self._failures[actor] += 1
        self._notes.failed(actor)
        self.watchers.tell("on_actor_failed", actor=actor, error=error, restarts=self._failures[actor])

    def _loading(self, stage: int, fraction: float, text: str) -> None:
        self.gateway.status.progress = fraction
        self.gateway.status.detail = f"stage {stage}: {text}"
        if self._on_loading is not None:
            self._on_loading(stage, fraction, text)

    def _on_failure(self, name: str, error: BaseException, message: Message | None) -> None:
        """The front holds the clients' connections: a handler that fails loses its message, never the process."""
        if self._supervisor is not None and self._supervisor.has_child(name):
            self._supervisor.failed(name, error, message)
            return
        log.error("actor %s failed on a message", name, exc_info=error)
        if is_out_of_memory(error):  # and the next message is lost as well: streams would wait for ever
            self.root.fail(EngineError(NO_MEMORY))


def info_gauge(parts: Mapping[str, str]) -> str:
    """A gauge that is always 1 and says it all in its labels, as Prometheus has it."""
    escaped = {part: name.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for part, name in parts.items()}
    return "info{" + ",".join(f'{part}="{name}"' for part, name in escaped.items()) + "}"
