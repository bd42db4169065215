"""The batching rule: there is no prefill phase and no decode phase.

Every sequence has `num_computed_tokens` that catch up with its known tokens. Each step takes one pending token of every
decoding sequence first, then chunks of those with more pending, then lets waiting ones in, all under one token budget.
A long prompt is thereby cut into chunks and never stalls the others. Sequences join and leave at every step.

When kv has no block left, the youngest running sequence gives up its blocks and is recomputed later from its tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from histrio.engine.blocks import BlockLease
from histrio.engine.sequence import Sequence
from histrio.messages import Close, Generate, Open, RequestState, Row, TokenRow

__all__ = ["Plan", "Scheduler", "SchedulerLimits"]


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Bounds of one step and of one sequence."""

    max_rows: int
    max_step_tokens: int
    block_size: int
    prefill_chunk: int
    """Most tokens of one sequence in one step."""
    max_sequence_length: int


@dataclass(slots=True)
class Plan:
    """One step to run: what to tell the stages, in this order, and whose rows they are."""

    step: int
    orders: list[Open | Close]
    rows: list[Row]
    ids: list[int]
    sequences: list[Sequence]


class Scheduler:
    """Waiting and running sequences of one replica."""

    def __init__(self, limits: SchedulerLimits, lease: BlockLease) -> None:
        self.limits = limits
        self.lease = lease
        self.num_missing_blocks = 0
        """Blocks the last plan would have needed beyond those in hand."""
        self.num_preemptions = 0
        self._step = 0
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._sequences: dict[int, Sequence] = {}
        self._free_slots = list(range(limits.max_rows - 1, -1, -1))
        self._orders: list[Open | Close] = []
        self._has_preempted = False

    # --- what batching asks ------------------------------------------------------------------------------------------

    @property
    def num_waiting(self) -> int:
        """Sequences without a slot."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Sequences with a slot."""
        return len(self._running)

    @property
    def has_work(self) -> bool:
        """Whether any sequence is unfinished."""
        return bool(self._sequences)

    def add(self, order: Generate) -> None:
        """A new or replayed request joins at the end of the queue."""
        sequence = Sequence.from_order(order)
        assert order.request not in self._sequences, "a request was sent twice"
        self._sequences[order.request] = sequence
        self._waiting.append(sequence)

    def cancel(self, request: int, state: RequestState) -> bool:
        """Drop a request at once; a result still in flight for it is ignored. False if it is not here (any more)."""
        sequence = self._sequences.get(request)
        if sequence is None:
            return False

        sequence.state = state
        if sequence.slot < 0:
            self._waiting.remove(sequence)
        self._leave(sequence)
        return True

    def plan(self) -> Plan | None:
        """The next step, or None when nothing can run; then `num_missing_blocks` tells whether blocks are short."""
        self.num_missing_blocks = 0
        self._has_preempted = False
        rows: list[Row] = []
        members: list[Sequence] = []
        budget = self.limits.max_step_tokens
        for sequence in self._candidates():
            if budget == 0 or len(members) == self.limits.max_rows:
                break
            row = self._row(sequence, budget)
            if row is None:
                continue
            rows.append(row)
            members.append(sequence)
            budget -= row.num_tokens
        members, rows = _without_preempted(members, rows)
        orders, self._orders = self._orders, []
        if not rows:
            self._orders = orders
            return None

        self._step += 1
        return Plan(self._step, orders, rows, self._issue(members, rows), members)

    def apply(self, plan: Plan, sampled: list[int]) -> list[TokenRow]:
        """Take in a step's result: tokens for the front, one row per sequence that gained some."""
        gained: list[TokenRow] = []
        at = 0
        for sequence, row in zip(plan.sequences, plan.rows, strict=True):
            ids = sampled[at : at + row.num_sampled]
            at += row.num_sampled
            if sequence.is_finished:
                continue
            sequence.is_in_flight = False
            sequence.num_computed_tokens += row.num_tokens
            if row.num_sampled:
                gained.append(TokenRow(sequence.request, ids, sequence.append(ids[0])))
            if sequence.is_finished:
                self._leave(sequence)
        assert at == len(sampled), "a stage sampled other rows than were planned"
        return gained

    def take_orders(self) -> list[Open | Close]:
        """Orders for the stages that no plan has carried yet (when nothing is left to plan)."""
        orders, self._orders = self._orders, []
        return orders

    def check_integrity(self) -> None:
        """Raise AssertionError if slots, blocks or queues disagree."""
        slots = [sequence.slot for sequence in self._running]
        assert sorted(slots + self._free_slots) == list(range(self.limits.max_rows)), "slots were lost or doubled"
        assert len(self._waiting) + len(self._running) == len(self._sequences), "a sequence is in no queue, or in two"
        self.lease.check_integrity([sequence.block_ids for sequence in self._running])
        for sequence in self._running:
            assert len(sequence.block_ids) * self.limits.block_size >= sequence.num_computed_tokens, (
                "blocks are missing"
            )

    # --- one row -----------------------------------------------------------------------------------------------------

    def _candidates(self) -> Iterator[Sequence]:
        """Decoding, then prefilling, then waiting sequences, oldest first within each."""
        ready = [sequence for sequence in self._running if not sequence.is_in_flight]
        yield from (sequence for sequence in ready if sequence.num_pending_tokens == 1 and sequence.slot >= 0)
        yield from (sequence for sequence in ready if sequence.num_pending_tokens > 1 and sequence.slot >= 0)
        while self._waiting and self._free_slots and not self.num_missing_blocks and not self._has_preempted:
            head = self._waiting[0]
            yield head
            if head.slot < 0:
                return  # it could not be let in, so nobody behind it is

    def _row(self, sequence: Sequence, budget: int) -> Row | None:
        """This sequence's part of the step, with its blocks allocated; None if blocks are short."""
        pending = sequence.num_pending_tokens
        num_tokens = min(pending, budget, self.limits.prefill_chunk)
        block_ids = self._allocate(sequence, num_tokens)
        if block_ids is None:
            return None

        if sequence.slot < 0:
            self._enter(sequence)
        sequence.block_ids.extend(block_ids)
        return Row(sequence.slot, sequence.num_computed_tokens, num_tokens, int(num_tokens == pending), block_ids)

    def _allocate(self, sequence: Sequence, num_tokens: int) -> list[int] | None:
        """Blocks for the next `num_tokens`, preempting younger sequences if kv has none."""
        end = sequence.num_computed_tokens + num_tokens
        num_blocks = -(-end // self.limits.block_size) - len(sequence.block_ids)
        while not self.lease.can_allocate(num_blocks):
            if not self._preempt_for(sequence):
                self.num_missing_blocks += num_blocks - self.lease.num_blocks_in_hand
                return None
        return self.lease.allocate(num_blocks)

    def _preempt_for(self, sequence: Sequence) -> bool:
        """Take the blocks of the youngest idle sequence that is younger than this one. Only when kv has none left."""
        if not self.lease.is_exhausted or sequence.slot < 0:
            return False

        position = self._running.index(sequence)
        for victim in reversed(self._running[position + 1 :]):
            if not victim.is_in_flight:
                self._preempt(victim)
                return True
        return False

    # --- joining and leaving -----------------------------------------------------------------------------------------

    def _enter(self, sequence: Sequence) -> None:
        first = self._waiting.popleft()
        assert first is sequence, "a sequence jumped the queue"
        sequence.slot = self._free_slots.pop()
        sequence.state = RequestState.PREFILLING
        self._running.append(sequence)
        order = sequence.order
        self._orders.append(
            Open(sequence.slot, list(sequence.ids), order.num_prompt_tokens, order.seed, order.choice, order.sampling)
        )

    def _preempt(self, sequence: Sequence) -> None:
        self._vacate(sequence)
        self.lease.reclaim()
        sequence.num_computed_tokens = 0
        sequence.state = RequestState.WAITING
        self._waiting.appendleft(sequence)
        self.num_preemptions += 1
        self._has_preempted = True

    def _leave(self, sequence: Sequence) -> None:
        del self._sequences[sequence.request]
        if sequence.slot >= 0:
            self._vacate(sequence)

    def _vacate(self, sequence: Sequence) -> None:
        """Give slot and blocks back; steps already issued stay valid, because links are first in, first out."""
        self._running.remove(sequence)
        self._orders.append(Close(sequence.slot))
        self._free_slots.append(sequence.slot)
        sequence.slot = -1
        self.lease.free(sequence.block_ids)
        sequence.block_ids = []

    def _issue(self, members: list[Sequence], rows: list[Row]) -> list[int]:
        """Mark the rows as in flight and collect their token ids."""
        ids: list[int] = []
        for sequence, row in zip(members, rows, strict=True):
            sequence.is_in_flight = True
            ids.extend(sequence.ids[row.start : row.start + row.num_tokens])
        return ids


def _without_preempted(members: list[Sequence], rows: list[Row]) -> tuple[list[Sequence], list[Row]]:
    """Drop rows whose sequence lost its slot to an older one while the plan was made."""
    if all(sequence.slot == row.slot for sequence, row in zip(members, rows, strict=True)):
        return members, rows

    kept = [(s, r) for s, r in zip(members, rows, strict=True) if s.slot == r.slot]
    return [s for s, _ in kept], [r for _, r in kept]
