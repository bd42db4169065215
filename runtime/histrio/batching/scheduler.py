"""The batching rule: there is no prefill phase and no decode phase.

The computed tokens of every sequence catch up with its known tokens. Each step takes one pending token of every
decoding sequence first, then chunks of those with more pending, then lets waiting ones in, all under one token budget.
A long prompt is thereby cut into chunks and never stalls the others. Sequences join and leave at every step.

A sequence that is about to enter is matched first: kv says which blocks hold the beginning of its tokens already. When
kv has no block left, the running sequence of the last rank gives up its blocks and is computed again later.

    plan = candidates, each with its budget → rows        which sequences: here; what a row is: `rows.py`
    apply: results → tokens, and which sequences leave    which sequences there are: `roster.py`
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from histrio.batching.answers import token_row, vector_row
from histrio.batching.lease import BlockLease
from histrio.batching.roster import Roster
from histrio.batching.rows import RowMaker
from histrio.batching.sequence import Sequence
from histrio.batching.speculation.cost import CostModel
from histrio.batching.speculation.speculation import Speculation
from histrio.batching.step_plan import Batch, Plan, SchedulerLimits, StageCommand
from histrio.contracts.policy import by_priority
from histrio.messages import Generate, Match, Prepare, RequestState, Sealed, StepResult, TokenRow

__all__ = ["Scheduler"]

_DRAWN_LAST = -1
"""Stands for a token id: the one that the last step draws for the slot."""
_PROMPT_FACTOR = 4.0
"""A step with prompts may take this many times as long as its decoding rows alone, where that is more than the budget:
on a slow device the budget would leave room for scraps of prompts, each of which costs almost a whole step."""
_MOST_SCORED = 128
"""Prompt positions whose logits are asked for in one step: all of them would be large."""


class Scheduler:
    """Waiting and running sequences of one replica.

    `handicap` tells how many later requests may enter before a command: it is finite, so no sequence waits for ever.
    """

    def __init__(
        self,
        limits: SchedulerLimits,
        lease: BlockLease,
        cost: CostModel | None = None,
        speculation: Speculation | None = None,
        handicap: Callable[[Generate], int] = by_priority,
    ) -> None:
        self.limits = limits
        self._settings = limits.settings
        self.lease = lease
        self.cost = cost or CostModel()
        self.speculation = speculation if limits.speculation is not None else None
        self._roster = Roster(limits, lease, self._forget_drafts)
        self._rows = RowMaker(limits, lease, self._roster)
        self._handicap = handicap
        self._step = 0
        self._num_arrived = 0
        self._matches: list[Match] = []
        self._is_decoding = False
        """Whether any sequence waits for its next token, in the step that is planned or in another micro-batch."""

    # --- what batching asks ------------------------------------------------------------------------------------------

    @property
    def num_waiting(self) -> int:
        """Sequences without a slot."""
        return len(self._roster.waiting)

    @property
    def max_running(self) -> int:
        """Most sequences with a slot; setting it ends none that runs."""
        return self._roster.max_running

    @max_running.setter
    def max_running(self, most: int) -> None:
        self._roster.max_running = min(most, self.limits.max_slots)

    @property
    def num_running(self) -> int:
        """Sequences with a slot."""
        return len(self._roster.running)

    @property
    def has_begun(self) -> bool:
        """Whether any request has come since the epoch began."""
        return self._num_arrived > 0

    @property
    def has_work(self) -> bool:
        """Whether any sequence is unfinished."""
        return bool(self._roster.by_request)

    @property
    def num_missing_blocks(self) -> int:
        """Blocks the last plan would have needed beyond those in hand."""
        return self._rows.num_missing_blocks

    @property
    def num_preemptions(self) -> int:
        """How often a sequence gave its blocks to another one."""
        return self._roster.num_preemptions

    @property
    def num_forks(self) -> int:
        """Sequences that began with a copy of the block that their prompt ends in."""
        return self._rows.num_forks

    @property
    def num_blocks_ahead(self) -> int:
        """Fresh blocks that the next step can need at most."""
        roster = self._roster
        pending = sum(sequence.num_pending_tokens for sequence in roster.running)
        pending += sum(sequence.num_pending_tokens for sequence in roster.waiting[: roster.num_free_slots])
        tokens = min(pending, self.limits.max_step_tokens)
        return tokens // self.limits.block_size + min(len(roster.by_request), self.limits.max_slots)

    def add(self, command: Generate) -> None:
        """A new or replayed request waits behind those that its handicap does not let it overtake."""
        self._num_arrived += 1
        handicap = self._handicap(command)
        sequence = Sequence.from_command(command)
        sequence.rank = (self._num_arrived + handicap, handicap)
        self._roster.add(sequence)

    def matched(self, request: int, block_ids: list[int]) -> None:
        """Kv shares these blocks with a request that was about to enter."""
        sequence = self._roster.by_request.get(request)
        if sequence is None:
            self.lease.release(request, block_ids)  # it was cancelled meanwhile
            return

        sequence.share(block_ids, self.limits.block_size)

    def prepared(self, request: int) -> None:
        """The last stage has compiled the grammar of a request that was about to enter."""
        sequence = self._roster.by_request.get(request)
        if sequence is not None and sequence.is_preparing:
            sequence.is_prepared, sequence.is_preparing = True, False

    def cancel(self, request: int, state: RequestState) -> bool:
        """Drop a request at once; a result still in flight for it is ignored. False if it is not here (any more)."""
        sequence = self._roster.by_request.get(request)
        if sequence is None:
            return False

        sequence.state = state
        self._roster.leave(sequence)
        return True

    def plan(self, num_micro_batches: int = 1, *, is_ahead: bool = False) -> Plan | None:
        """The next step, or None when nothing can run; then `num_missing_blocks` tells whether blocks are short.

        With several micro-batches in flight each takes its share of the sequences. A step `is_ahead` follows one whose
        tokens are not known yet: id -1 stands for the token that the stage has drawn last for the row's slot.
        """
        self._rows.begin()
        batch = Batch()
        max_rows = -(-min(len(self._roster.by_request), self.limits.max_slots) // num_micro_batches)
        self._is_decoding = any(sequence.state is RequestState.DECODING for sequence in self._roster.running)
        self._draft(max_rows)
        if is_ahead:
            self._schedule_ahead(batch)
        for sequence in self._candidates():
            budget = self._budget(sequence, batch)
            if len(batch.rows) >= max_rows or batch.num_tokens >= self.limits.max_step_tokens:
                break
            if budget <= 0:
                continue
            row = self._rows.row(sequence, budget)
            if row is not None:
                batch.add(sequence, row)
        if self._rows.has_preempted:
            batch = batch.without_preempted()
        return self._issue(batch) if batch.rows else None

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
            end = row.start + row.num_tokens - max(row.num_sampled - count, 0)
            sequence.progress.answer(end, is_verified=row.num_sampled > 1)
            if row.num_sampled:
                gained.append(token_row(sequence, row, result, slice(first, at), self.speculation))
                if sequence.is_finished:
                    self._roster.leave(sequence)
            elif sequence.command.ask.pooling is not None and end == len(sequence.ids):
                gained.append(vector_row(sequence, result.extras[row.slot]))
                self._roster.leave(sequence)
            elif row.slot in result.extras:
                sequence.extras.append(result.extras[row.slot])
        assert at == len(result.ids), "a stage sampled other rows than were planned"
        return gained

    def learn(self, plan: Plan, busy_s: float) -> None:
        """A step that was applied has kept the stages busy for so long."""
        self.cost.observe(len(plan.ids), plan.num_pairs, busy_s, plan.num_decoding_drafts)
        if self.speculation is not None and self.cost.is_trusted:
            self.speculation.settle(plan, busy_s)

    def take_commands(self) -> list[StageCommand]:
        """Commands for the stages that no plan has carried yet (when nothing is left to plan)."""
        return self._roster.take_commands()

    def take_matches(self) -> list[Match]:
        """Questions for kv, of sequences that could enter next."""
        matches, self._matches = self._matches, []
        return matches

    def check_integrity(self) -> None:
        """Raise AssertionError if slots, blocks or queues disagree."""
        self._roster.check_integrity()

    # --- which sequences take part -----------------------------------------------------------------------------------

    def _candidates(self) -> Iterator[Sequence]:
        """Decoding, then prefilling, then waiting sequences, by age within each; or prefilling ones first.

        Waiting sequences are last in any case: they must not take the blocks for which others have just been preempted.
        """
        decoding: list[Sequence] = []
        prefilling: list[Sequence] = []
        for sequence in self._roster.running:
            num_pending = sequence.num_pending_tokens
            if num_pending > 0:
                (decoding if num_pending == 1 else prefilling).append(sequence)
        for sequence in [*prefilling, *decoding] if self._settings.prefill_priority else [*decoding, *prefilling]:
            if sequence.slot >= 0:
                yield sequence
        yield from self._newcomers()

    def _newcomers(self) -> Iterator[Sequence]:
        """Waiting sequences that could enter, by rank. For those that are new, kv is asked for a match and the last
        stage to compile the grammar.

        A sequence whose prefix lookup is pending does not block those behind it: the lookup may be waiting for a block
        that one of them computes. Nor does one whose grammar is compiled, which may take long.
        """
        num_free_slots, num_preparing = self._roster.num_free_slots, 0
        for sequence in list(self._roster.waiting):
            if self._rows.num_missing_blocks or self._rows.has_preempted or not num_free_slots:
                return
            num_preparing += sequence.is_preparing
            is_bound = not sequence.is_prepared and num_preparing >= self.limits.max_slots
            if sequence.is_matching or sequence.is_preparing or is_bound:
                continue
            num_free_slots -= 1
            if not (sequence.is_matched and sequence.is_prepared):
                self._ask(sequence)
                continue
            if not self._leaves_enough_blocks(sequence):
                return
            yield sequence
            if sequence.slot < 0:
                return  # it could not enter, so none behind it may

    def _leaves_enough_blocks(self, sequence: Sequence) -> bool:
        """Whether enough blocks are left for running sequences, if any, when this one has those of its prompt."""
        reserve = int(self._settings.preemption_threshold * self.limits.num_blocks)
        if not self._roster.running or reserve == 0:
            return True

        needed = -(-len(sequence.ids) // self.limits.block_size) - len(sequence.block_ids)
        return self.lease.num_blocks_in_hand + self.lease.num_blocks_left - needed >= reserve

    def _budget(self, sequence: Sequence, batch: Batch) -> int:
        """Most tokens of this sequence in the step. Decoding sequences wait for the step, so prompts are cut to fit
        into its time, but the first of them gains a block at least."""
        num_left = self.limits.max_step_tokens - batch.num_tokens
        if self.limits.needs_whole_texts:
            return num_left if sequence.num_pending_tokens <= num_left else 0
        if sequence.wants_scores:
            num_left = min(num_left, _MOST_SCORED - batch.num_scored)
        is_free = sequence.num_pending_tokens == 1 or self._settings.prefill_priority
        if is_free or not self.cost.is_trusted or not self._is_decoding:
            return num_left

        decoding_s = self.cost.predict(batch.num_decoding_tokens, batch.num_decoding_pairs)
        bound = max(self._settings.step_budget_ms / 1000, _PROMPT_FACTOR * decoding_s) / self.cost.lag
        seconds = bound - self.cost.predict(batch.num_tokens, batch.num_pairs)
        fitting = self.cost.tokens_within(seconds, sequence.progress.planned)
        is_first = len(batch.rows) == batch.num_decoding
        return min(num_left, max(fitting, self.limits.block_size) if is_first else fitting)

    def _ask(self, sequence: Sequence) -> None:
        command = sequence.command
        if command.ask.grammar is not None and not sequence.is_prepared:
            sequence.is_preparing = True
            self._roster.queue(Prepare(command.request, command.ask.grammar, sequence.ids[command.num_prompt_tokens :]))
        if sequence.is_matched:
            return

        sequence.is_matching = True
        ids = [] if sequence.reads_whole_prompt else list(sequence.ids)
        self._matches.append(Match(sequence.request, ids, command.ask.cache_salt))

    def _draft(self, max_rows: int) -> None:
        """Have tokens drafted for the sequences that decode in this step."""
        if self.speculation is None or not self.cost.is_trusted:
            return

        decoding = [sequence for sequence in self._roster.running if sequence.state is RequestState.DECODING]
        if decoding:
            self.speculation.set_price(len(decoding), sum(len(sequence.ids) for sequence in decoding))
            ready = [sequence for sequence in decoding if sequence.num_pending_tokens == 1]
            self.speculation.propose(ready[:max_rows])

    def _schedule_ahead(self, batch: Batch) -> None:
        """Async scheduling: rows for the tokens that are being drawn now, where each is certain to be one token.

        If the pending token ends the text, the extra row is wasted. Schedule ahead only if every running sequence can
        be, else two half batches would alternate; and never when blocks are short, because sequences in flight cannot
        be preempted.
        """
        if self.lease.is_exhausted or any(self._may_gain_several(sequence) for sequence in self._roster.running):
            return

        for sequence in self._roster.running:
            is_certain = sequence.num_pending_tokens == 0 and sequence.progress.num_in_flight == 1
            if not is_certain or len(sequence.ids) + 1 >= sequence.end:
                continue
            row = self._rows.row_ahead(sequence)
            if row is None:
                return
            batch.add(sequence, row)

    def _may_gain_several(self, sequence: Sequence) -> bool:
        """Whether a step may give the sequence more than one token."""
        if sequence.command.ask.grammar is not None or sequence.drafted.ids:
            return True
        return self.speculation is not None and self.speculation.may_draft(sequence)

    def _forget_drafts(self, sequence: Sequence) -> None:
        if self.speculation is not None:
            self.speculation.close(sequence)

    # --- what a step carries -----------------------------------------------------------------------------------------

    def _issue(self, batch: Batch) -> Plan:
        """Mark the rows as in flight and collect what the stages need for them."""
        self._step += 1
        ids: list[int] = []
        drafts: list[int] = []
        for sequence, row in zip(batch.members, batch.rows, strict=True):
            sequence.progress.send()
            ids.extend(sequence.ids[row.start : row.start + row.num_tokens] or (_DRAWN_LAST,))
            if sequence.drafted.ids:
                ids.extend(sequence.drafted.ids)
                drafts.extend(sequence.drafted.ids)
        return Plan(
            step=self._step,
            commands=self.take_commands(),
            rows=batch.rows,
            ids=ids,
            sequences=batch.members,
            sealed=self._seal(batch),
            num_pairs=batch.num_pairs,
            drafts=drafts,
            draft_probs={
                each.slot: each.drafted.draft_probs[: len(each.drafted.ids)]
                for each in batch.members
                if each.drafted.draft_probs
            },
            num_decoding_drafts=len(drafts) if batch.num_decoding == len(batch.rows) else None,
        )

    def _seal(self, batch: Batch) -> list[Sealed]:
        """The blocks that these rows fill, for kv to know their contents."""
        if not self.limits.has_prefix_cache:
            return []

        block_size = self.limits.block_size
        sealed = []
        for sequence, row in zip(batch.members, batch.rows, strict=True):
            num_known = min(row.start + row.num_tokens - len(sequence.drafted.ids), len(sequence.ids))
            first, end = sequence.num_sealed_blocks, num_known // block_size
            if end > first:
                ids = sequence.ids[first * block_size : end * block_size]
                sealed.append(Sealed(sequence.request, sequence.block_ids[first:end], ids))
                sequence.num_sealed_blocks = end
        return sealed
