"""One sequence's part of a step: which tokens, in which blocks; and which one is preempted when blocks are short."""

from __future__ import annotations

from histrio.batching.lease import BlockLease
from histrio.batching.roster import Roster
from histrio.batching.sequence import Sequence
from histrio.batching.step_plan import SchedulerLimits
from histrio.messages import Copy, Row

__all__ = ["RowMaker"]


class RowMaker:
    """Makes the rows of a step one after the other, each with its blocks allocated."""

    def __init__(self, limits: SchedulerLimits, lease: BlockLease, roster: Roster) -> None:
        self.num_missing_blocks = 0
        """Blocks the rows of this step would have needed beyond those in hand."""
        self.has_preempted = False
        """A sequence was preempted in this step."""
        self.num_forks = 0
        """Sequences that began with a copy of the block that their prompt ends in."""
        self._limits = limits
        self._settings = limits.settings
        self._lease = lease
        self._roster = roster

    def begin(self) -> None:
        """Another step is planned."""
        self.num_missing_blocks = 0
        self.has_preempted = False

    def row(self, sequence: Sequence, budget: int) -> Row | None:
        """The row of a sequence with at most `budget` tokens, for which it enters if it waits; None if blocks are
        short."""
        source = self._block_to_copy(sequence) if sequence.slot < 0 else None
        start = sequence.progress.planned if source is None else len(sequence.ids) - 1
        pending = len(sequence.ids) - start
        num_tokens = min(pending, budget, self._limits.max_row_tokens)
        if sequence.drafted.ids:
            self._cut_drafts(sequence, budget)
            num_tokens += len(sequence.drafted.ids)
        new_ids = self._allocate(sequence, start + num_tokens)
        if new_ids is None:
            return None

        if sequence.slot < 0:
            sequence.progress.begin_at(start)
            self._roster.enter(sequence)
            if source is not None:
                self._roster.queue(Copy([source], [new_ids[0]]))
                self.num_forks += 1
            new_ids = sequence.block_ids + new_ids  # the stages hear of the shared ones too
            sequence.block_ids = list(new_ids)
        elif new_ids:
            sequence.block_ids.extend(new_ids)
        num_drafts = len(sequence.drafted.ids)
        draws = sequence.command.ask.pooling is None and num_tokens == pending + num_drafts
        num_sampled = 1 + num_drafts if draws else 0
        num_scored = num_tokens - num_sampled if sequence.wants_scores else 0
        is_rewind = sequence.progress.plan(start + num_tokens, num_drafts)
        num_pooled = sequence.num_pooled(start, num_tokens)
        return Row(sequence.slot, start, num_tokens, num_sampled, new_ids, is_rewind, num_scored, num_pooled)

    def row_ahead(self, sequence: Sequence) -> Row | None:
        """The row for the token that is being drawn now (async scheduling); None if blocks are short."""
        start = sequence.progress.planned
        new_ids = self._allocate(sequence, start + 1)
        if new_ids is None:
            return None

        sequence.block_ids.extend(new_ids)
        sequence.progress.plan(start + 1)
        return Row(sequence.slot, start, 1, 1, new_ids)

    def _cut_drafts(self, sequence: Sequence, budget: int) -> None:
        """Drafts take neither more than the budget nor blocks that would have to be asked for."""
        room = (len(sequence.block_ids) + self._lease.num_blocks_in_hand) * self._limits.block_size
        most = max(min(budget - 1, room - len(sequence.ids)), 0)
        sequence.drafted.cut(most)

    def _block_to_copy(self, sequence: Sequence) -> int | None:
        """The block that the prompt ends in, if another choice of the same request has computed it."""
        command, size = sequence.command, self._limits.block_size
        leader = self._roster.by_request.get(command.leader)
        if leader is None or leader is sequence or not self._limits.can_copy:
            return None

        num_known = len(sequence.ids) - 1
        is_fresh = len(sequence.ids) == command.num_prompt_tokens and len(sequence.block_ids) == num_known // size
        if not is_fresh or leader.slot < 0 or leader.progress.computed < num_known or num_known % size == 0:
            return None
        return leader.block_ids[num_known // size]

    def _allocate(self, sequence: Sequence, end: int) -> list[int] | None:
        """Blocks for the tokens up to `end`; None if kv has to grant some first, or a sequence to be preempted."""
        if not self._settings.enable_preemption:
            end = sequence.command.max_total_tokens
        num_blocks = -(-end // self._limits.block_size) - len(sequence.block_ids)
        if num_blocks <= 0:
            return []
        if self._lease.can_allocate(num_blocks):
            return self._lease.allocate(num_blocks)

        self.num_missing_blocks += num_blocks - self._lease.num_blocks_in_hand
        if self._lease.is_exhausted:
            self._make_room(sequence, self.num_missing_blocks)
        return None

    def _make_room(self, sequence: Sequence, num_blocks: int) -> None:
        """Release the blocks of other waiting sequences; then, for a running one, preempt idle sequences of a later
        rank, the last first.

        The blocks go to kv, because it knows which of them are shared; it grants free ones with the next plan.
        """
        num_released = 0
        for waiting in self._roster.waiting:
            if waiting.block_ids and waiting is not sequence:
                num_released += len(waiting.block_ids)
                self._lease.release(waiting.request, waiting.forget_blocks())
        if sequence.slot < 0 or not self._settings.enable_preemption:
            return

        for victim in sorted(self._roster.running, key=lambda each: each.rank, reverse=True):
            if num_released >= num_blocks or victim.rank <= sequence.rank:
                return
            if not victim.progress.num_in_flight:
                num_released += len(victim.block_ids)
                self._roster.preempt(victim)
                self.has_preempted = True
