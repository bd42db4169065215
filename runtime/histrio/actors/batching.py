"""Batching: the waiting and running sequences of one replica, turned into steps."""

from __future__ import annotations

import time
from collections.abc import Callable

from histrio.actors.directory import Tell
from histrio.actors.mailbox import Actor
from histrio.engine.blocks import BlockLease
from histrio.engine.scheduler import Plan, Scheduler, SchedulerLimits
from histrio.errors import EngineError, WireError
from histrio.messages import (
    Allocated,
    Cancel,
    Generate,
    Granted,
    LeaseBlocks,
    Message,
    Ready,
    RequestState,
    ReturnBlocks,
    Start,
    Stats,
    Step,
    StepResult,
    Stop,
    TokenRow,
    Tokens,
)

__all__ = ["BatchingActor"]

_STATS_EVERY_S = 1.0
_TOTALS = ("steps", "scheduled_tokens", "generated_tokens")


class BatchingActor(Actor):
    """Plans a step whenever its mailbox is empty and the stages are free; applies results as they come."""

    def __init__(self, name: str, tell: Tell, prefill_chunk: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._tell = tell
        self._prefill_chunk = prefill_chunk
        self._clock = clock
        self._epoch = 0
        self._in_flight: dict[int, Plan] = {}
        self._asked_blocks = 0
        self._lease_ahead = 0
        self._totals = dict.fromkeys(_TOTALS, 0)
        self._stats_due = 0.0
        self.scheduler: Scheduler | None = None

    def start(self) -> None:
        """Tell root that an epoch may begin."""
        self._tell("root", Ready(self._name))

    def receive(self, message: Message) -> None:
        """Take in what changed; the next step is planned in `flush`."""
        if isinstance(message, Start):
            self._start(message)
            return
        if isinstance(message, Stop):
            self.scheduler = None
        if self.scheduler is None:
            return  # of an epoch that is over: the front sends everything unfinished again

        match message:
            case StepResult():
                self._apply(message, self.scheduler)
            case Generate():
                self._take(message, self.scheduler)
            case Cancel(request, state):
                self.scheduler.cancel(request, state)
            case Granted(block_ids):
                self.scheduler.lease.add(block_ids)
                self.scheduler.lease.is_exhausted = len(block_ids) < self._asked_blocks
                self._asked_blocks = 0
            case _:
                raise WireError(f"batching does not understand {type(message).__name__}")

    def flush(self) -> None:
        """plan → run: one step in flight at a time."""
        if self.scheduler is None or self._in_flight:
            return

        plan = self.scheduler.plan()
        self._settle_blocks(self.scheduler)
        orders = plan.orders if plan else self.scheduler.take_orders()
        for order in orders:
            self._tell("stage0", order)
        if plan is not None:
            self._in_flight[plan.step] = plan
            self._tell("stage0", Step(plan.step, self._epoch, plan.rows, plan.ids))
        self._report(self.scheduler)

    def idle(self) -> None:
        """Check the books; without work the lease goes back as a whole."""
        if self.scheduler is None:
            return

        self.scheduler.check_integrity()
        if not self.scheduler.has_work:
            self.scheduler.lease.give_up()
            self._settle_blocks(self.scheduler)

    def _take(self, order: Generate, scheduler: Scheduler) -> None:
        """Queue the request, unless a replica that came back smaller cannot hold it any more."""
        longest = scheduler.limits.max_sequence_length
        if order.max_total_tokens <= longest:
            scheduler.add(order)
            return

        error = EngineError(f"the engine came back with room for {longest} tokens, which this request exceeds")
        row = TokenRow(order.request, [], RequestState.ERROR, str(error), error.code)
        self._tell("admission", Tokens(self._epoch, [row]))

    def _start(self, start: Start) -> None:
        self._epoch = start.epoch
        self._in_flight.clear()
        self._asked_blocks = 0
        self._totals = dict.fromkeys(_TOTALS, 0)
        size = start.size
        limits = SchedulerLimits(
            max_rows=size.max_rows,
            max_step_tokens=size.max_step_tokens,
            block_size=size.page_size,
            prefill_chunk=self._prefill_chunk,
            max_sequence_length=size.max_sequence_length,
        )
        self._lease_ahead = -(-size.max_step_tokens // size.page_size) + size.max_rows
        self.scheduler = Scheduler(limits, BlockLease())
        self._tell("root", Allocated(self._name, start.epoch))

    def _apply(self, result: StepResult, scheduler: Scheduler) -> None:
        if result.epoch != self._epoch:
            return  # from a chain that no longer exists

        plan = self._in_flight.pop(result.step)
        rows = scheduler.apply(plan, result.ids)
        self._totals["steps"] += 1
        self._totals["scheduled_tokens"] += len(plan.ids)
        self._totals["generated_tokens"] += len(result.ids)
        if rows:
            self._tell("admission", Tokens(self._epoch, rows))

    def _settle_blocks(self, scheduler: Scheduler) -> None:
        """Give back what sequences left behind; ask for what one more step can need."""
        lease = scheduler.lease
        returned = lease.take_returned()
        if returned:
            self._tell("kv", ReturnBlocks(returned))
        is_short = lease.num_blocks_in_hand < self._lease_ahead // 2 and not lease.is_exhausted and scheduler.has_work
        if self._asked_blocks or not (is_short or scheduler.num_missing_blocks):
            return

        if scheduler.num_missing_blocks and lease.is_exhausted:
            return  # preemption or a result has to free some first
        self._asked_blocks = max(self._lease_ahead - lease.num_blocks_in_hand, scheduler.num_missing_blocks)
        self._tell("kv", LeaseBlocks(self._asked_blocks))

    def _report(self, scheduler: Scheduler) -> None:
        """Totals and sizes to metrics, at most once a second, and once more when work has run out."""
        now = self._clock()
        if now < self._stats_due and scheduler.has_work:
            return

        self._stats_due = now + _STATS_EVERY_S
        sizes = {
            "running_sequences": scheduler.num_running,
            "waiting_sequences": scheduler.num_waiting,
            "used_blocks": scheduler.lease.num_used_blocks,
            "preemptions_total": scheduler.num_preemptions,
        }
        totals = {f"{name}_total": value for name, value in self._totals.items()}
        self._tell("metrics", Stats(self._epoch, {**sizes, **totals}))
