"""The batching rule: there is no prefill phase and no decode phase.

Every sequence has `num_computed_tokens` that catch up with its known tokens. Each step takes one pending token of every
decoding sequence first, then chunks of those with more pending, then lets waiting ones in, all under one token budget.
A long prompt is thereby cut into chunks and never stalls the others. Sequences join and leave at every step.

A sequence that is about to enter is matched first: kv says which blocks hold the beginning of its tokens already. When
kv has no block left, the running sequence of the last rank gives up its blocks and is computed again later.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field

from histrio.drafting import Drafter
from histrio.engine.blocks import BlockLease
from histrio.engine.cost import CostModel, attended_pairs
from histrio.engine.sequence import Sequence
from histrio.engine.speculation import SpeculationLimits, worthwhile_length
from histrio.errors import GenerationStuck
from histrio.messages import Close, Generate, Match, Open, RequestState, Row, Sealed, StepResult, TokenRow

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
    has_prefix_cache: bool = True
    step_budget_s: float = math.inf
    """Seconds that chunks of prompts may make a step take which others wait for to decode."""
    speculation: SpeculationLimits | None = None
    """None where the stages cannot verify drafts, or nobody drafts."""
    overtake_limit: int = 32
    """Later requests of the next higher priority that may enter before a waiting one: nobody waits for ever."""


@dataclass(slots=True)
class Plan:
    """One step to run: what to tell the stages, in this order, and whose rows they are."""

    step: int
    orders: list[Open | Close]
    rows: list[Row]
    ids: list[int]
    sequences: list[Sequence]
    sealed: list[Sealed]
    """Blocks that this step fills."""
    num_pairs: float
    """Tokens attended to by all its tokens, for the cost model."""
    drafts: list[int]
    """Of all rows that verify some, concatenated."""


class Scheduler:
    """Waiting and running sequences of one replica."""

    def __init__(
        self,
        limits: SchedulerLimits,
        lease: BlockLease,
        cost: CostModel | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        self.limits = limits
        self.lease = lease
        self.cost = cost or CostModel()
        self.num_drafted_tokens = 0
        self.num_accepted_tokens = 0
        """Of those drafted, how many came true."""
        self._drafter = drafter if limits.speculation is not None else None
        self._price = 0.0
        """Tokens that one drafted token costs in the step that is planned."""
        self.num_missing_blocks = 0
        """Blocks the last plan would have needed beyond those in hand."""
        self.num_preemptions = 0
        self._step = 0
        self._num_arrived = 0
        self._waiting: list[Sequence] = []
        """By rank."""
        self._running: list[Sequence] = []
        self._sequences: dict[int, Sequence] = {}
        self._free_slots = list(range(limits.max_rows - 1, -1, -1))
        self._orders: list[Open | Close] = []
        self._matches: list[Match] = []
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

    @property
    def _is_decoding(self) -> bool:
        """Whether anybody waits for the next token, in this step or in another micro-batch."""
        return any(sequence.state is RequestState.DECODING for sequence in self._running)

    @property
    def num_blocks_ahead(self) -> int:
        """Fresh blocks that the next step can need at most."""
        pending = sum(sequence.num_pending_tokens for sequence in self._running)
        if self._free_slots:
            pending += sum(sequence.num_pending_tokens for sequence in self._waiting[: len(self._free_slots)])
        tokens = min(pending, self.limits.max_step_tokens)
        return tokens // self.limits.block_size + min(len(self._sequences), self.limits.max_rows)

    def add(self, order: Generate) -> None:
        """A new or replayed request waits behind those of its own and higher priorities."""
        sequence = Sequence.from_order(order)
        assert order.request not in self._sequences, "a request was sent twice"
        self._num_arrived += 1
        sequence.rank = self._num_arrived + order.priority * self.limits.overtake_limit
        sequence.is_matched = not self.limits.has_prefix_cache
        self._sequences[order.request] = sequence
        self._wait(sequence)

    def matched(self, request: int, block_ids: list[int]) -> None:
        """Kv shares these blocks with a request that was about to enter."""
        sequence = self._sequences.get(request)
        if sequence is None:
            self.lease.release(request, block_ids)  # it was cancelled meanwhile
            return

        sequence.share(block_ids, self.limits.block_size)

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

    def plan(self, num_micro_batches: int = 1) -> Plan | None:
        """The next step, or None when nothing can run; then `num_missing_blocks` tells whether blocks are short.

        With several micro-batches in flight each takes its share of the sequences.
        """
        self.num_missing_blocks = 0
        self._has_preempted = False
        draft = _Draft()
        self._price = self._price_of_drafts() if self._drafter is not None else 0.0
        max_rows = -(-min(len(self._sequences), self.limits.max_rows) // num_micro_batches)
        for sequence in self._candidates():
            budget = self._budget(sequence, draft)
            if budget <= 0 or len(draft.rows) == max_rows:
                break
            row = self._row(sequence, budget)
            if row is not None:
                draft.add(sequence, row)
        members, rows = _without_preempted(draft.members, draft.rows)
        if not rows:
            return None

        self._step += 1
        ids = self._issue(members, rows)
        drafts = [token for sequence in members for token in sequence.drafts]
        sealed = self._seal(members, rows)
        return Plan(self._step, self.take_orders(), rows, ids, members, sealed, draft.num_pairs, drafts)

    def apply(self, plan: Plan, result: StepResult) -> list[TokenRow]:
        """Take in a step's result: tokens for the front, one row per sequence that gained some."""
        gained: list[TokenRow] = []
        at = 0
        counts = iter(result.num_ids)
        for sequence, row in zip(plan.sequences, plan.rows, strict=True):
            count = (next(counts) if result.num_ids else 1) if row.num_sampled else 0
            first, at = at, at + count
            if sequence.is_finished:
                continue
            sequence.is_in_flight = False
            sequence.num_computed_tokens += row.num_tokens - max(row.num_sampled - count, 0)
            self._judge(sequence, row, count)
            if row.num_sampled:
                gained.append(_token_row(sequence, row, result, range(first, at)))
                if sequence.drafting is not None:
                    sequence.drafting.extend(gained[-1].ids)
            if sequence.is_finished:
                self._leave(sequence)
        assert at == len(result.ids), "a stage sampled other rows than were planned"
        return gained

    def take_orders(self) -> list[Open | Close]:
        """Orders for the stages that no plan has carried yet (when nothing is left to plan)."""
        orders, self._orders = self._orders, []
        return orders

    def take_matches(self) -> list[Match]:
        """Questions for kv, of sequences that could enter next."""
        matches, self._matches = self._matches, []
        return matches

    def check_integrity(self) -> None:
        """Raise AssertionError if slots, blocks or queues disagree."""
        slots = [sequence.slot for sequence in self._running]
        assert sorted(slots + self._free_slots) == list(range(self.limits.max_rows)), "slots were lost or doubled"
        assert len(self._waiting) + len(self._running) == len(self._sequences), "a sequence is in no queue, or in two"
        assert self._waiting == sorted(self._waiting, key=_rank), "those who wait are out of order"
        self.lease.check_integrity([sequence.block_ids for sequence in self._sequences.values()])
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
        for sequence in self._waiting[: len(self._free_slots)]:
            if self.num_missing_blocks or self._has_preempted:
                return
            if not sequence.is_matched:
                self._ask(sequence)
                continue
            yield sequence
            if sequence.slot < 0:
                return  # it could not be let in, so nobody behind it is

    def _budget(self, sequence: Sequence, draft: _Draft) -> int:
        """Most tokens that this sequence may have of the step. Those who decode wait for it: so prompts are cut to fit
        into its time, but the first of them gains a block at least."""
        num_left = self.limits.max_step_tokens - draft.num_tokens
        is_free = sequence.num_pending_tokens == 1 or math.isinf(self.limits.step_budget_s)
        if is_free or not self.cost.is_trusted or not self._is_decoding:
            return num_left

        seconds = self.limits.step_budget_s - self.cost.predict(draft.num_tokens, draft.num_pairs)
        fitting = self.cost.tokens_within(seconds, sequence.num_computed_tokens)
        is_first = len(draft.rows) == draft.num_decoding
        return min(num_left, max(fitting, self.limits.block_size) if is_first else fitting)

    def _ask(self, sequence: Sequence) -> None:
        if not sequence.is_matching:
            sequence.is_matching = True
            self._matches.append(Match(sequence.request, list(sequence.ids), sequence.order.cache_salt))

    def _row(self, sequence: Sequence, budget: int) -> Row | None:
        """This sequence's part of the step, with its blocks allocated; None if blocks are short."""
        pending = sequence.num_pending_tokens
        num_tokens = min(pending, budget, self.limits.prefill_chunk)
        sequence.drafts = self._draft(sequence, budget) if pending == 1 and self._drafter is not None else []
        num_tokens += len(sequence.drafts)
        new_ids = self._allocate(sequence, num_tokens)
        if new_ids is None:
            return None

        if sequence.slot < 0:
            self._enter(sequence)
            sequence.block_ids.extend(new_ids)
            new_ids = list(sequence.block_ids)  # the stages hear of the shared ones too
        else:
            sequence.block_ids.extend(new_ids)
        start, num_sampled = sequence.num_computed_tokens, 0
        if num_tokens == pending + len(sequence.drafts):
            num_sampled = 1 + len(sequence.drafts)
        is_rewind = start < sequence.num_issued_tokens
        sequence.num_issued_tokens = start + num_tokens
        return Row(sequence.slot, start, num_tokens, num_sampled, new_ids, is_rewind)

    def _draft(self, sequence: Sequence, budget: int) -> list[int]:
        """Tokens to verify beside the one that has to be computed; none that blocks or the request's end forbid."""
        limits = self.limits.speculation
        assert limits is not None
        assert self._drafter is not None
        if sequence.state is not RequestState.DECODING or not self.cost.is_trusted:
            return []

        end = len(sequence.ids)
        room = (len(sequence.block_ids) + self.lease.num_blocks_in_hand) * self.limits.block_size - end
        most = min(budget - 1, sequence.order.max_total_tokens - end - 1, room)
        num_tokens = min(worthwhile_length(sequence.acceptance.rate, limits, self._price), most)
        if num_tokens < 1:
            return []

        if sequence.drafting is None:
            sequence.drafting = self._drafter.begin(sequence.ids)
        return sequence.drafting.propose(num_tokens)

    def _price_of_drafts(self) -> float:
        """Tokens that the time for one drafted token would give otherwise: b N / T, with N sequences decoding."""
        decoding = [each for each in self._running if each.state is RequestState.DECODING]
        if not decoding:
            return 0.0

        context = sum(len(each.ids) for each in decoding)
        seconds = self.cost.predict(len(decoding), context)
        return self.cost.seconds_of_token(context // len(decoding)) * len(decoding) / max(seconds, 1e-9)

    def _judge(self, sequence: Sequence, row: Row, num_gained: int) -> None:
        """Learn from what the row's drafts came to."""
        if self._drafter is None or not row.num_sampled:
            return

        num_drafted = len(sequence.drafts)
        num_accepted = min(num_gained - 1, num_drafted)
        sequence.acceptance.observe(num_drafted, num_accepted)
        self.num_drafted_tokens += num_drafted
        self.num_accepted_tokens += num_accepted
        sequence.drafts = []

    def _allocate(self, sequence: Sequence, num_tokens: int) -> list[int] | None:
        """Blocks for the next `num_tokens`; None if kv has to be asked, or others have to give way first."""
        end = sequence.num_computed_tokens + num_tokens
        num_blocks = -(-end // self.limits.block_size) - len(sequence.block_ids)
        if self.lease.can_allocate(num_blocks):
            return self.lease.allocate(num_blocks)

        self.num_missing_blocks += num_blocks - self.lease.num_blocks_in_hand
        if self.lease.is_exhausted and sequence.slot >= 0:
            self._make_room(sequence, self.num_missing_blocks)
        return None

    def _make_room(self, sequence: Sequence, num_blocks: int) -> None:
        """Take the blocks of those who wait, then of idle sequences of a later rank than this one, the last first.

        Kv gets them, because it knows what else is in them; it grants what is free with the next plan.
        """
        num_released = 0
        for waiting in self._waiting:
            if waiting.block_ids:
                num_released += len(waiting.block_ids)
                self.lease.release(waiting.request, waiting.forget_blocks())
        for victim in sorted(self._running, key=_rank, reverse=True):
            if num_released >= num_blocks or victim.rank <= sequence.rank:
                return
            if not victim.is_in_flight:
                num_released += len(victim.block_ids)
                self._preempt(victim)

    # --- joining and leaving -----------------------------------------------------------------------------------------

    def _wait(self, sequence: Sequence) -> None:
        insort(self._waiting, sequence, key=_rank)

    def _enter(self, sequence: Sequence) -> None:
        self._waiting.remove(sequence)
        sequence.slot = self._free_slots.pop()
        sequence.state = RequestState.PREFILLING
        self._running.append(sequence)
        order = sequence.order
        self._orders.append(
            Open(
                slot=sequence.slot,
                ids=list(sequence.ids),
                num_prompt_tokens=order.num_prompt_tokens,
                seed=order.seed,
                choice=order.choice,
                sampling=order.sampling,
                num_cached_tokens=sequence.num_cached_tokens,
                grammar=order.grammar,
                num_logprobs=order.num_logprobs,
                sampler_state=sequence.sampler_state,
                end_ids=[*order.eos_ids, *order.stop_ids],
            )
        )

    def _preempt(self, sequence: Sequence) -> None:
        self._vacate(sequence)
        sequence.is_matched = not self.limits.has_prefix_cache
        sequence.state = RequestState.WAITING
        self._wait(sequence)
        self.num_preemptions += 1
        self._has_preempted = True

    def _leave(self, sequence: Sequence) -> None:
        del self._sequences[sequence.request]
        if sequence.slot >= 0:
            self._vacate(sequence)
        else:
            self.lease.release(sequence.request, sequence.forget_blocks())

    def _vacate(self, sequence: Sequence) -> None:
        """Give slot and blocks back; steps already issued stay valid, because links are first in, first out."""
        self._running.remove(sequence)
        self._orders.append(Close(sequence.slot))
        self._free_slots.append(sequence.slot)
        sequence.slot = -1
        self.lease.release(sequence.request, sequence.forget_blocks())

    # --- what a step carries -----------------------------------------------------------------------------------------

    def _issue(self, members: list[Sequence], rows: list[Row]) -> list[int]:
        """Mark the rows as in flight and collect their token ids."""
        ids: list[int] = []
        for sequence, row in zip(members, rows, strict=True):
            sequence.is_in_flight = True
            ids.extend(sequence.ids[row.start : row.start + row.num_tokens])
            ids.extend(sequence.drafts)
        return ids

    def _seal(self, members: list[Sequence], rows: list[Row]) -> list[Sealed]:
        """The blocks that these rows fill, for kv to know their contents."""
        if not self.limits.has_prefix_cache:
            return []

        block_size = self.limits.block_size
        sealed = []
        for sequence, row in zip(members, rows, strict=True):
            num_certain = row.num_tokens - len(sequence.drafts)
            first, end = sequence.num_sealed_blocks, (row.start + num_certain) // block_size
            if end > first:
                ids = sequence.ids[first * block_size : end * block_size]
                sealed.append(Sealed(sequence.request, sequence.block_ids[first:end], ids))
                sequence.num_sealed_blocks = end
        return sealed


@dataclass(slots=True)
class _Draft:
    """A step while it is planned."""

    members: list[Sequence] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    num_tokens: int = 0
    num_pairs: float = 0.0
    num_decoding: int = 0
    """Rows of sequences that had one token to compute."""

    def add(self, sequence: Sequence, row: Row) -> None:
        self.members.append(sequence)
        self.rows.append(row)
        self.num_tokens += row.num_tokens
        self.num_pairs += attended_pairs(row.start, row.num_tokens)
        self.num_decoding += row.num_tokens == row.num_sampled


def _rank(sequence: Sequence) -> int:
    return sequence.rank


def _token_row(sequence: Sequence, row: Row, result: StepResult, gained: range) -> TokenRow:
    """What the front hears of a row: its tokens, up to the one that ends the text, or why it cannot go on.

    The first ones of a request say how much of its prompt came from the cache.
    """
    if row.slot in result.failures:
        sequence.state = RequestState.ERROR
        return TokenRow(sequence.request, [], sequence.state, result.failures[row.slot], GenerationStuck.code)

    ids = []
    for index in gained:
        ids.append(result.ids[index])
        if sequence.append(ids[-1]).is_finished:
            break
    found = [result.logprobs[index] for index in gained[: len(ids)] if index in result.logprobs]
    sequence.sampler_state = result.states.get(row.slot, sequence.sampler_state)
    num_cached = 0 if sequence.has_reported else min(sequence.num_cached_tokens, sequence.order.num_prompt_tokens)
    sequence.has_reported = True
    return TokenRow(
        sequence.request,
        ids,
        sequence.state,
        logprobs=[each.logprob for each in found],
        num_cached_tokens=num_cached,
        top_logprobs=[each.top for each in found],
        sampler_state=sequence.sampler_state,
    )


def _without_preempted(members: list[Sequence], rows: list[Row]) -> tuple[list[Sequence], list[Row]]:
    """Drop rows whose sequence lost its slot to an older one while the plan was made."""
    if all(sequence.slot == row.slot for sequence, row in zip(members, rows, strict=True)):
        return members, rows

    kept = [(s, r) for s, r in zip(members, rows, strict=True) if s.slot == r.slot]
    return [s for s, _ in kept], [r for _, r in kept]
