"""Root: brings a replica up, notices what dies, and begins a new epoch once everything is there again.

loading ──all there──▶ starting ──all Allocated──▶ up
   ▲                                                 │
   └──────────── a process or an actor failed ───────┘       (or: failed, for good)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from histrio.actors.directory import Directory
from histrio.actors.mailbox import Actor
from histrio.actors.refs import (
    ADMISSION,
    BATCHING,
    ENGINE,
    KV,
    METRICS,
    ROOT,
    Ref,
    ToRoot,
    process_ref,
    refuse,
    stage_ref,
)
from histrio.config.topology import RuntimeTable
from histrio.errors import EngineError, HistrioError, ModelError, RestartLimitReached, WireError
from histrio.kit.memory import describe_bytes
from histrio.messages import (
    PROTOCOL_VERSION,
    Allocated,
    Beat,
    ChildFailed,
    EngineCapacity,
    EngineOpened,
    FailedStep,
    Hello,
    Loading,
    LoadStages,
    OnTrial,
    Opened,
    Placement,
    Probed,
    Ready,
    ReplicaDown,
    ReplicaSize,
    ReplicaUp,
    StageAnswer,
    StageCapacity,
    Start,
)
from histrio.replica.blame import Blame
from histrio.replica.liveness import IS_STOPPED, Liveness, ProcessView
from histrio.replica.restarts import RestartAccount
from histrio.replica.sizing import SizeLimits, fit, fit_engine, lost_capabilities

__all__ = ["LINK", "HostedActors", "Launcher", "Network", "RootActor", "replica_actors"]

log = logging.getLogger(__name__)

LINK = "link:"
"""Before a process's name in `ChildFailed.child`: the reporter cannot reach it. A link that broke is not mended."""
_END_AFTER_S = 0.5
"""How long the end of a process that cannot be reached is waited for."""
_FAILED_FOR_GOOD = "the engine has failed and does not come back; the server's log tells why"


class Launcher(Protocol):
    """What root can have done to processes."""

    def kill(self, process: str, reason: str) -> None:
        """End a process that is hung or lost, and start another; its own end is not waited for."""

    def look(self, process: str) -> ProcessView | None:
        """What the operating system says of it; None where nothing is known."""

    def failed_step(self, process: str) -> FailedStep | None:
        """The step that it hangs in; None where nothing is known."""


class Network(Protocol):
    """How processes of one machine reach those of another."""

    def endpoint(self, machine: str, port: int, dialler: str) -> str:
        """Where a process of machine `dialler` dials the one that listens at this port of `machine`."""


@dataclass(slots=True)
class HostedActors:
    """Which process hosts which actors, and how later ones reach it."""

    role: str
    """`engine`, `stage1`, …; stays the same when the process is restarted."""
    process: str
    """The role with the count of its incarnations, `engine.2`."""
    actors: list[str]
    endpoint: str = ""
    """Empty in the one-process topology."""
    dials: list[str] = field(default_factory=list)
    """Roles this one connects to at the start of an epoch."""
    machine: str = ""
    """The machine that it runs on; empty: that of the front."""
    port: int = 0
    """Where processes of other machines reach it; told in its `Hello`."""


def replica_actors(num_stages: int) -> frozenset[str]:
    """Which actors make a replica complete: batching, kv and the stages, or without stages an engine in their place."""
    if num_stages == 0:
        return frozenset({ENGINE})
    return frozenset({BATCHING, KV, *(stage_ref(index) for index in range(num_stages))})


class RootActor(Actor[ToRoot]):
    """The replica's life, on the front's loop."""

    def __init__(
        self,
        directory: Directory,
        limits: SizeLimits,
        actors: frozenset[str],
        *,
        on_loading: Callable[[int, float, str], None] = lambda _stage, _fraction, _text: None,
        runtime: RuntimeTable | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._limits = limits
        self._actors = actors
        """The actors that make the replica complete."""
        self._capacities: dict[str, StageCapacity | EngineCapacity] = {}
        """Actor that computes and is present → its capacity."""
        self._answers: dict[int, StageAnswer] = {}
        """What the backend of each stage said last."""
        self._unplaced: dict[str, list[int]] = {}
        """Processes that wait for the placements of their stages."""
        self._on_loading = on_loading
        self._clock = clock
        runtime = runtime or RuntimeTable()
        self._liveness = Liveness(runtime, clock)
        self._hosts: dict[str, HostedActors] = {}
        self._lost: dict[str, tuple[float, str]] = {}
        """Processes that cannot be reached, since when and why, until their end is known."""
        self._present: set[str] = set()
        """Actors that are made and wait for an epoch, or run in one."""
        self._awaited: set[str] = set()
        self._is_up = False
        self._has_been_up = False
        self._blame = Blame()
        self._size: ReplicaSize | None = None
        self.restarts = RestartAccount(runtime.max_restarts, runtime.restart_window_s)
        """How often the replica may fail, and how long a new process is put off."""
        self.launcher: Launcher | None = None
        self.network: Network | None = None
        """None where all processes run on the machine of the front."""
        self.settle: Callable[[Sequence[StageAnswer]], list[Placement]] = _nothing_to_settle
        """The placements of all stages from the answers for all stages. Raises `HistrioError` for what cannot be."""
        self.on_failed: Callable[[str, str], None] = lambda _actor, _error: None
        """Told of every actor and process that failed, by its name and why."""
        self.on_placed: Callable[[Placement], None] = lambda _placement: None
        """Told where each stage is going to run."""
        self.on_opened: Callable[[str, StageCapacity | EngineCapacity], None] = lambda _actor, _capacity: None
        """Told of every stage and engine that has opened, by its name."""
        self.placements: list[Placement] = []
        """Where all stages run, once that is settled."""
        self.epoch = 0
        self.failure: Exception | None = None
        """Why no replica will come up again."""

    # --- what the launcher reports -----------------------------------------------------------------------------------

    def process_started(self, host: HostedActors) -> None:
        """A process was started; messages from it are accepted from now on."""
        self._hosts[host.process] = host
        self._liveness.started(host.process)
        self._directory.route(dict.fromkeys([host.process, *host.actors], host.process))

    def process_leaving(self, process: str) -> None:
        """A process is about to be stopped: its silence is no news."""
        self._hosts.pop(process, None)
        self._unplaced.pop(process, None)
        self._liveness.gone(process)
        self._directory.forget(process)

    def process_exited(
        self, process: str, reason: str, *, is_own_doing: bool = False, step: FailedStep | None = None
    ) -> None:
        """A process ended, in this step if that is known: what it hosted is gone until a new one has opened.
        `is_own_doing`: nothing outside can have ended it."""
        is_known = process in self._hosts and self.failure is None
        if is_known and is_own_doing and not (self._has_been_up or self._liveness.has_begun(process)):
            self.fail(EngineError(f"process {process} {reason} before it could begin; what it wrote stands above"))
        self._process_gone(process, reason, is_own_doing=is_own_doing, step=step)

    def _process_gone(self, process: str, reason: str, *, is_own_doing: bool, step: FailedStep | None = None) -> None:
        host = self._hosts.pop(process, None)
        self._unplaced.pop(process, None)
        self._liveness.gone(process)
        self._lost.pop(process, None)
        if host is None:
            return
        self._directory.forget(process)
        self.on_failed(host.role, reason)
        for name in host.actors:
            self._lose(name)
        where = f", in {step.code}" if step is not None and step.code else ""
        self._went_down(f"process {process} {reason}{where}", is_own_doing=is_own_doing, step=step)

    def fail(self, error: Exception) -> None:
        """Give up: nothing will be started again."""
        self.failure = error
        self._is_up = False
        self._directory.tell(ADMISSION, ReplicaDown(0, _FAILED_FOR_GOOD, final=True))

    def check_processes(self) -> None:
        """Replace processes that are hung. Called by the front's timer."""
        if self.launcher is not None:
            for process, reason in self._liveness.check(self.launcher.look, self._is_loading):
                self._replace(process, reason, is_own_doing=reason != IS_STOPPED)
        for process, (since, reason) in list(self._lost.items()):
            if self._clock() - since >= _END_AFTER_S:
                self._process_gone(process, reason, is_own_doing=False)

    def lost(self, process: str, reason: str) -> None:
        """A process cannot be reached any more. A link that broke is not mended, so another one is started.

        Most often the process has ended, and how it ended tells more: that is waited for, though not for long.
        """
        if process in self._hosts and process not in self._lost and self.launcher is not None:
            self._lost[process] = (self._clock(), reason)
            self.launcher.kill(process, reason)

    # --- actor -------------------------------------------------------------------------------------------------------

    def receive(self, message: ToRoot) -> None:
        """One event in the life of the replica."""
        match message:
            case Beat():
                self._liveness.beat(message)
            case Probed():
                self._probed(message)
            case Loading(stage, fraction, text):
                self._loading(stage, fraction, text)
            case Opened(stage, capacity):
                self._open(stage_ref(stage), capacity)
            case EngineOpened(capacity):
                self._open(ENGINE, capacity)
            case Ready(actor):
                self._join(actor)
            case Allocated(actor, epoch):
                self._allocated(actor, epoch)
            case Hello():
                self._hello(message)
            case ChildFailed():
                self._child_failed(message)
            case OnTrial():
                self._blame.on_trial(message)
                if not message.request:
                    self.restarts.settled()
            case _:
                refuse("root", message)

    def _hello(self, hello: Hello) -> None:
        if hello.protocol != PROTOCOL_VERSION:
            self.fail(WireError(f"{hello.process} speaks protocol {hello.protocol}, this is {PROTOCOL_VERSION}"))
            return
        self._liveness.begun(hello.process)
        host = self._hosts.get(hello.process)
        if host is not None:
            host.port = hello.port
        log.info("process %s is up, pid %d", hello.process, hello.pid)

    def _probed(self, probed: Probed) -> None:
        """Once the backends of all stages have answered, the processes that wait learn where their stages run."""
        self._unplaced[probed.process] = [answer.stage for answer in probed.answers]
        self._answers |= {answer.stage: answer for answer in probed.answers}
        if len(self._answers) < max(len(self._actors - {BATCHING, KV}), 1):  # an engine stands for batching
            return

        try:
            self.placements = self.settle([self._answers[stage] for stage in sorted(self._answers)])
        except HistrioError as error:
            self._cannot_start(probed.process, "its stages", error)
            return
        for process, stages in self._unplaced.items():
            mine = [placement for placement in self.placements if placement.stage in stages]
            for each in mine:
                weights = describe_bytes(each.weight_bytes)
                log.info("stage %d: device %s, dtype %s, weights %s", each.stage, each.device, each.dtype, weights)
            self._directory.tell(process_ref(process), LoadStages(mine))
        for placement in self.placements:
            self.on_placed(placement)
        self._unplaced.clear()

    def _loading(self, stage: int, fraction: float, text: str) -> None:
        for host in self._hosts.values():
            if stage_ref(stage) in host.actors or ENGINE in host.actors:
                self._liveness.got_on(host.process)
        self._on_loading(stage, fraction, text)

    def _is_loading(self, process: str) -> bool:
        """Whether an actor of it opens or allocates, which takes as long as it takes; waiting for others is neither."""
        host = self._hosts.get(process)
        if host is None or process in self._unplaced:
            return False
        return any(name not in self._present or name in self._awaited for name in host.actors)

    def _replace(self, process: str, reason: str, *, is_own_doing: bool) -> None:
        """End it, and count what it hosts as lost from now on: its end itself may never come."""
        if process in self._hosts and self.launcher is not None:
            step = self.launcher.failed_step(process)
            self.launcher.kill(process, reason)
            self._process_gone(process, reason, is_own_doing=is_own_doing, step=step)

    def _child_failed(self, failed: ChildFailed) -> None:
        if failed.is_final:
            process = next((host.process for host in self._hosts.values() if failed.child in host.actors), "")
            self.on_failed(failed.child, failed.error)
            self._cannot_start(process, failed.child, ModelError(failed.error))
            return
        if failed.child.startswith(LINK):
            self.lost(failed.child.removeprefix(LINK), failed.error)
            return

        log.warning("%s failed: %s", failed.child, failed.error)
        self.on_failed(failed.child, failed.error)
        reason = f"{failed.child} failed"
        if not failed.ends_process:
            for name in [failed.child, *failed.dependants]:
                self._lose(name)
            self._went_down(reason, is_own_doing=failed.is_request_code, step=failed.failed_step)
            return

        process = next((host.process for host in self._hosts.values() if failed.child in host.actors), "")
        if not self._has_been_up:
            self.fail(ModelError(f"{failed.child} cannot be started: {failed.error}"))
        is_own_doing = failed.is_request_code
        self._process_gone(process, f"ends, because {reason}", is_own_doing=is_own_doing, step=failed.failed_step)

    def _cannot_start(self, process: str, what: str, error: HistrioError) -> None:
        """Fail for good, unless it could start before: then the cause may pass, such as memory not yet given back."""
        if self._has_been_up and self.launcher is not None:
            self._replace(process, f"cannot start {what} again: {error}", is_own_doing=True)
        else:
            self.fail(error)

    def _open(self, actor: str, capacity: StageCapacity | EngineCapacity) -> None:
        self._capacities[actor] = capacity
        self.on_opened(actor, capacity)
        self._join(actor)

    def _join(self, actor: str) -> None:
        self._present.add(actor)
        self._start_if_complete()

    def _lose(self, actor: str) -> None:
        self._present.discard(actor)
        self._capacities.pop(actor, None)

    def _went_down(self, reason: str, *, is_own_doing: bool, step: FailedStep | None = None) -> None:
        """Something of the replica is gone. Whether a request is to blame, and whether this was once too often."""
        self._awaited.clear()
        if self.failure is not None:
            return

        was_up, self._is_up = self._is_up, False
        convicted, culprits = 0, step.culprits if step is not None and was_up else []
        if was_up:
            convicted = 0 if culprits else self._blame.convicted(step, is_own_doing=is_own_doing)
            suspects = None if step is None or not step.rows else [] if culprits else step.requests
            code = "" if step is None else step.code
            log.warning("replica 0 is down: %s", reason)
            down = ReplicaDown(0, reason, convicted=convicted, suspects=suspects, culprits=culprits, code=code)
            self._directory.tell(ADMISSION, down)
        if convicted or culprits:
            self.restarts.forgive(self._clock())
        elif not self.restarts.failed(self._clock()):
            self.fail(RestartLimitReached(f"the replica failed more often than {self.restarts}: {reason}"))

    def _start_if_complete(self) -> None:
        """Begin an epoch when every actor is there. All of them forget what they knew."""
        if not self._actors <= self._present or self.failure is not None:
            return
        try:
            size = self._fit()
        except ModelError as error:
            self.fail(error)
            return

        self.epoch += 1
        self._size = size
        peers = {name: host.process for host in self._hosts.values() for name in host.actors}
        peers |= dict.fromkeys((ROOT, ADMISSION, METRICS), self._directory.process)
        self._awaited = {name for host in self._hosts.values() for name in host.actors}
        num_side_by_side = max(len({placement.computes_on for placement in self.placements}), 1)
        for host in self._hosts.values():
            command = Start(self.epoch, size, peers, self._endpoints(host), num_side_by_side)
            for name in host.actors:
                if name != KV:  # which batching tells, behind all that it told it before
                    self._directory.tell(Ref[Start](name), command)

    def _fit(self) -> ReplicaSize:
        """What the replica can hold. Raises `DoesNotFit`."""
        engines = [each for each in self._capacities.values() if isinstance(each, EngineCapacity)]
        return fit_engine(self._limits, engines[0]) if engines else fit(self._limits, list(self._stages.values()))

    @property
    def _stages(self) -> dict[str, StageCapacity]:
        return {name: each for name, each in self._capacities.items() if isinstance(each, StageCapacity)}

    def _endpoints(self, host: HostedActors) -> dict[str, str]:
        peers = [peer for peer in self._hosts.values() if peer.role in host.dials]
        return {peer.process: self._endpoint(peer, host) for peer in peers}

    def _endpoint(self, peer: HostedActors, dialler: HostedActors) -> str:
        if self.network is None or (peer.machine == dialler.machine and peer.endpoint):
            return peer.endpoint
        return self.network.endpoint(peer.machine, peer.port, dialler.machine)

    def _allocated(self, actor: str, epoch: int) -> None:
        if epoch != self.epoch or not self._awaited:
            return
        self._awaited.discard(actor)
        size = self._size
        if self._awaited or size is None:
            return

        self._is_up = self._has_been_up = True
        self.restarts.came_up(self._clock())
        log.info("replica 0 is up: epoch %d, %d blocks of %d tokens", self.epoch, size.num_blocks, size.block_size)
        for sentence in lost_capabilities({name: each.capabilities for name, each in self._stages.items()}):
            log.info("%s", sentence)
        self._directory.tell(ADMISSION, ReplicaUp(0, self.epoch, size))


def _nothing_to_settle(_answers: Sequence[StageAnswer]) -> list[Placement]:
    """Stages in the front's own process are placed before they are made."""
    return []
