"""Batching: the waiting and running sequences of one replica, turned into steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import msgspec

from histrio.actors.mailbox import Actor
from histrio.actors.refs import ADMISSION, BATCHING, KV, METRICS, ROOT, Tell, ToBatching, refuse, stage_ref
from histrio.batching.lease import BlockLease
from histrio.batching.scheduler import Scheduler
from histrio.batching.speculation.cost import CostModel
from histrio.batching.speculation.drafter_guard import DrafterGuard
from histrio.batching.speculation.speculation import Speculation
from histrio.batching.step_plan import Plan, SchedulerLimits
from histrio.config.settings import BatchingSettings, SpeculationSettings
from histrio.contracts.backend import Capability
from histrio.contracts.drafter import Drafter, DrafterSpec
from histrio.contracts.policy import BatchingPolicy, by_priority
from histrio.errors import EngineError, HistrioError
from histrio.messages import (
    Allocated,
    Cancel,
    Generate,
    Granted,
    LeaseBlocks,
    Matched,
    Prepared,
    Ready,
    ReturnBlocks,
    Start,
    Stats,
    Step,
    StepResult,
    Stop,
    TokenRow,
    Tokens,
    Tune,
)
from histrio.policies.guard import guarded_handicap

__all__ = ["BatchingActor", "BatchingSpec"]

log = logging.getLogger(__name__)

_FIRST_STAGE = stage_ref(0)
_STATS_EVERY_S = 1.0
_VERIFYING = {Capability.REWIND, Capability.ALL_POSITION_LOGITS}
_TOTALS = ("steps", "scheduled_rows", "scheduled_tokens", "generated_tokens")


class BatchingSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What batching goes by: its settings, and what the plan made of them. Travels to the process that hosts it."""

    settings: BatchingSettings = BatchingSettings()
    speculation: SpeculationSettings = SpeculationSettings()
    num_micro_batches: int | None = None
    """Steps in flight along the stages; None: as many as can compute side by side."""
    num_ahead: int = 0
    """Steps scheduled beyond these before the tokens they continue from are known (async scheduling), for a single
    stage on another thread."""
    drafter: str = ""
    """Name of the drafter; empty for none."""
    drafter_spec: DrafterSpec | None = None


class BatchingActor(Actor[ToBatching]):
    """Plans a step whenever its mailbox is empty and the stages are free; applies results as they come."""

    def __init__(
        self,
        tell: Tell,
        spec: BatchingSpec,
        *,
        make_drafter: Callable[[], Drafter] | None = None,
        vocab_size: int = 0,
        policy: BatchingPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell = tell
        self._spec = spec
        self._settings = spec.settings
        """`vocab_size` bounds what the drafter may propose; 0: not known."""
        self._make_drafter = make_drafter
        self._vocab_size = vocab_size
        self._drafter: Drafter | None = None
        self._handicap = by_priority if policy is None else guarded_handicap(policy)
        self._clock = clock
        self._epoch = 0
        self._num_micro_batches = 1
        self._in_flight: dict[int, Plan] = {}
        self._totals = dict.fromkeys(_TOTALS, 0)
        self._stats_due = 0.0
        self._gathering_since: float | None = None
        """Clock when the first request came while nothing ran; None when something runs, or no request waits."""
        self.scheduler: Scheduler | None = None

    def start(self) -> None:
        """Make the drafter, which may load weights; then tell root that an epoch may begin."""
        if self._make_drafter is not None:
            self._drafter = self._made_drafter(self._make_drafter)
        self._tell(ROOT, Ready(BATCHING))

    def receive(self, message: ToBatching) -> None:
        """Take in what changed; the next step is planned in `flush`."""
        if isinstance(message, Start):
            self._start(message)
            return
        if isinstance(message, Stop):
            self._stop()
            return
        if self.scheduler is None:
            return  # of an epoch that is over: the front sends everything unfinished again

        match message:
            case StepResult():
                self._apply(message, self.scheduler)
            case Generate():
                self._take(message, self.scheduler)
            case Cancel(request, state):
                self.scheduler.cancel(request, state)
            case Matched() | Granted() if not self.scheduler.has_begun:
                pass  # an answer to the epoch before: its blocks are not ours
            case Matched(request, block_ids):
                self.scheduler.matched(request, block_ids)
            case Prepared(request, epoch):
                if epoch == self._epoch:
                    self.scheduler.prepared(request)
            case Granted(block_ids, num_left):
                self.scheduler.lease.add(block_ids, num_left)
            case Tune():
                self._tune(message, self.scheduler)
            case _:
                refuse("batching", message)

    def flush(self) -> None:
        """plan → run, until as many micro-batches are in flight as there shall be."""
        scheduler = self.scheduler
        if scheduler is None or self._is_gathering(scheduler):
            return

        num_micro_batches = self._num_micro_batches
        while len(self._in_flight) < num_micro_batches + self._spec.num_ahead:
            plan = scheduler.plan(num_micro_batches, is_ahead=len(self._in_flight) >= num_micro_batches)
            self._settle_blocks(scheduler, plan)
            for command in plan.commands if plan is not None else scheduler.take_commands():
                self._tell(_FIRST_STAGE, command)
            if plan is None:
                break
            self._in_flight[plan.step] = plan
            self._tell(
                _FIRST_STAGE,
                Step(plan.step, self._epoch, plan.rows, plan.ids, drafts=plan.drafts, draft_probs=plan.draft_probs),
            )
        self._report(scheduler)

    def pause_s(self) -> float | None:
        """How long the first request still waits for others."""
        if self._gathering_since is None:
            return None
        left = self._gathering_since + self._settings.scheduler_wait_ms / 1000 - self._clock()
        return left if left > 0 else None

    def idle(self) -> None:
        """Check the integrity of slots and blocks; without work the whole lease goes back to kv."""
        if self.scheduler is None:
            return

        self.scheduler.check_integrity()
        if not self.scheduler.has_work:
            given = self.scheduler.lease.give_up()
            if given:
                self._tell(KV, ReturnBlocks(given))

    def _is_gathering(self, scheduler: Scheduler) -> bool:
        """Whether waiting requests wait a little for others, because nothing runs and there is room for more."""
        if not self._settings.scheduler_wait_ms:
            return False

        is_idle = scheduler.num_running == 0 and not self._in_flight
        if not is_idle or not 0 < scheduler.num_waiting < scheduler.max_running:
            self._gathering_since = None
        elif self._gathering_since is None:
            self._gathering_since = self._clock()
        return self.pause_s() is not None

    def _tune(self, message: Tune, scheduler: Scheduler) -> None:
        if message.max_batch_size is not None:
            scheduler.max_running = message.max_batch_size
        if message.scheduler_wait_ms is not None:
            self._settings = msgspec.structs.replace(self._settings, scheduler_wait_ms=message.scheduler_wait_ms)
        self._stats_due = 0.0

    def _stop(self) -> None:
        self.scheduler = None
        drafter, self._drafter = self._drafter, None
        if drafter is not None:
            drafter.shutdown()

    def _made_drafter(self, make: Callable[[], Drafter]) -> Drafter | None:
        """What the topology asks for and cannot be is refused; a mistake in the drafter's own code costs no more than
        the drafts. Raises `HistrioError`."""
        try:
            return make()
        except HistrioError:
            raise
        except Exception:
            log.exception("nothing is drafted: drafter %r cannot be made", self._spec.drafter)
            return None

    def _take(self, command: Generate, scheduler: Scheduler) -> None:
        """Queue the request, unless a replica that came back smaller cannot hold it any more."""
        longest = scheduler.limits.max_sequence_length
        if command.max_total_tokens <= longest:
            scheduler.add(command)
            return

        error = EngineError(f"the engine came back with room for {longest} tokens, which this request exceeds")
        row = TokenRow.failed(command.request, str(error), error.code)
        self._tell(ADMISSION, Tokens(self._epoch, [row]))

    def _start(self, start: Start) -> None:
        self._epoch = start.epoch
        self._num_micro_batches = self._spec.num_micro_batches or start.num_side_by_side
        self._in_flight.clear()
        self._totals = dict.fromkeys(_TOTALS, 0)
        size = start.size
        limits = SchedulerLimits(
            max_slots=size.max_slots,
            max_step_tokens=size.max_step_tokens,
            block_size=size.block_size,
            max_sequence_length=size.max_sequence_length,
            speculation=self._spec.speculation if _VERIFYING.issubset(size.capabilities) else None,
            has_prefix_cache=self._settings.prefix_cache and Capability.PREFIX_SHARE in size.capabilities,
            num_blocks=size.num_blocks,
            settings=self._settings,
            can_copy=Capability.COPY_BLOCKS in size.capabilities,
            needs_whole_texts=Capability.WHOLE_TEXTS in size.capabilities,
        )
        self.scheduler = self._make_scheduler(limits)
        self._tell(KV, start)
        self._tell(ROOT, Allocated(BATCHING, start.epoch))

    def _make_scheduler(self, limits: SchedulerLimits) -> Scheduler:
        """A scheduler without sequences; the drafter forgets what it kept of earlier epochs."""
        cost = CostModel()
        speculation = None
        if self.scheduler is not None and self.scheduler.speculation is not None:
            self.scheduler.speculation.close_all()
        if self._drafter is not None and limits.speculation is not None:
            guard = DrafterGuard(self._drafter, self._spec.drafter, self._vocab_size)
            speculation = Speculation(limits.speculation, guard, cost, self._clock)
        return Scheduler(limits, BlockLease(), cost, speculation, self._handicap)

    def _apply(self, result: StepResult, scheduler: Scheduler) -> None:
        if result.epoch != self._epoch:
            return  # from a chain that no longer exists

        plan = self._in_flight.pop(result.step)
        rows = scheduler.apply(plan, result)
        scheduler.learn(plan, result.busy_s)
        self._totals["steps"] += 1
        self._totals["scheduled_rows"] += len(plan.rows)
        self._totals["scheduled_tokens"] += len(plan.ids)
        self._totals["generated_tokens"] += sum(len(row.ids) for row in rows)
        if rows:
            self._tell(ADMISSION, Tokens(self._epoch, rows))

    def _settle_blocks(self, scheduler: Scheduler, plan: Plan | None) -> None:
        """Tell kv the released and the filled blocks; ask for the blocks that one more step can need."""
        lease = scheduler.lease
        for release in lease.take_releases():
            self._tell(KV, release)
        for sealed in plan.sealed if plan is not None else ():
            self._tell(KV, sealed)
        for match in scheduler.take_matches():
            self._tell(KV, match)
        if lease.num_asked_blocks or lease.is_exhausted or not scheduler.has_work:
            return

        num_ahead = scheduler.num_blocks_ahead
        if scheduler.num_missing_blocks or lease.num_blocks_in_hand < num_ahead // 2:
            lease.ask(max(num_ahead - lease.num_blocks_in_hand, scheduler.num_missing_blocks))
            self._tell(KV, LeaseBlocks(lease.num_asked_blocks))

    def _report(self, scheduler: Scheduler) -> None:
        """Totals and sizes to metrics, at most once a second, and once more when work has run out."""
        now = self._clock()
        if now < self._stats_due and scheduler.has_work:
            return

        self._stats_due = now + _STATS_EVERY_S
        sizes = {
            "running_sequences": scheduler.num_running,
            "waiting_sequences": scheduler.num_waiting,
            "batch_slots": scheduler.limits.max_slots,
            "max_batch_size": scheduler.max_running,
            "scheduler_wait_ms": self._settings.scheduler_wait_ms,
            "used_blocks": scheduler.lease.num_used_blocks,
            "preemptions_total": scheduler.num_preemptions,
            "forked_sequences_total": scheduler.num_forks,
            "drafted_tokens_total": scheduler.speculation.num_drafted_tokens if scheduler.speculation else 0,
            "accepted_tokens_total": scheduler.speculation.num_accepted_tokens if scheduler.speculation else 0,
            "drafted_rows_total": scheduler.speculation.num_drafted_rows if scheduler.speculation else 0,
        }
        totals = {f"{name}_total": value for name, value in self._totals.items()}
        self._tell(METRICS, Stats(self._epoch, {**sizes, **totals}))
