"""Drafting with a model, whose tokens the target verifies.

Each round has one ragged step in which the draft model catches up with all new tokens, and then one step for every
further token, for the sequences that still want one. A sequence that is far behind, as every new one is, catches
up first and is drafted for in the next round: so no round takes longer than its one step with many tokens, and the time
of the other steps is the real cost of a draft.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from histrio.contracts.drafter import Draft
from histrio.errors import BackendError
from histrio.messages import Generate, Row
from histrio_speculative.model_stage import ModelStage
from histrio_speculative.reservations import Reservation, Reservations
from histrio_speculative.token_chooser import TokenChooser

__all__ = ["ModelDrafter", "Vocabularies"]

_MOST_BEHIND = 32
"""Tokens that a sequence catches up with in the round in which it is drafted for."""


@dataclass(frozen=True, slots=True)
class Vocabularies:
    """How many tokens each of the two models knows: higher ids mean nothing to it."""

    target: int
    draft: int


@dataclass(slots=True, eq=False)
class _Sequence:
    """Known tokens, and those that the draft model has computed beyond them."""

    command: Generate
    ids: list[int]
    end_ids: frozenset[int]
    computed_drafts: list[int] = field(default_factory=list)
    is_foreign: bool = False
    """Whether it has tokens that the draft model does not know."""


@dataclass(slots=True, eq=False)
class _Run:
    """One sequence in one round."""

    sequence: _Sequence
    reservation: Reservation
    num_drafts: int
    draft: Draft = field(default_factory=lambda: Draft([]))
    is_over: bool = False


class ModelDrafter:
    """Drafts with the model in `stage`; `chooser` makes tokens of its logits."""

    def __init__(self, stage: ModelStage, chooser: TokenChooser, vocabularies: Vocabularies) -> None:
        self.reservations = Reservations(stage.size, stage.close_slot)
        self._stage = stage
        self._chooser = chooser
        self._vocabularies = vocabularies
        self._sequences: dict[int, _Sequence] = {}

    def open(self, command: Generate, ids: Sequence[int]) -> None:
        """Remember the tokens; nothing is computed before `propose`."""
        sequence = _Sequence(command, list(ids), frozenset(command.ask.end_ids))
        sequence.is_foreign = self._has_foreign(ids)
        self._sequences[command.request] = sequence

    def extend(self, request: int, ids: Sequence[int]) -> None:
        """Add tokens. Drafted tokens that equal them stay computed."""
        sequence = self._sequences[request]
        reservation = self.reservations.get(request)
        if reservation is not None:
            num_right = _num_equal(sequence.computed_drafts, ids)
            reservation.num_computed_tokens = min(reservation.num_computed_tokens, len(sequence.ids) + num_right)
        sequence.computed_drafts.clear()
        sequence.ids += ids
        sequence.is_foreign = sequence.is_foreign or self._has_foreign(ids)

    def propose(self, lengths: Mapping[int, int]) -> dict[int, Draft]:
        """Drafts of the draft model; only for sequences that have a slot in it. Raises `BackendError`."""
        self.reservations.begin_round()
        try:
            runs = self._race(lengths)
        except RuntimeError as error:
            raise BackendError(f"the draft model failed: {error}") from error
        return {run.sequence.command.request: run.draft for run in runs if run.draft.ids}

    def close(self, request: int) -> None:
        """Forget the sequence."""
        del self._sequences[request]
        self.reservations.release(request)

    def shutdown(self) -> None:
        """Free the model's memory. Safe to call twice."""
        self._sequences.clear()
        self._stage.close()

    def _race(self, lengths: Mapping[int, int]) -> list[_Run]:
        """Catch up, then compute a token at a time as long as a sequence wants one."""
        rows: list[Row] = []
        ids: list[int] = []
        runs: list[_Run] = []
        for sequence, reservation in self._reserve_for(lengths):
            row = self._catch_up(sequence, reservation, self._stage.size.max_step_tokens - len(ids))
            rows.append(row)
            ids += sequence.ids[row.start : row.start + row.num_tokens]
            if row.num_sampled:
                runs.append(_Run(sequence, reservation, lengths[sequence.command.request]))
            if len(ids) == self._stage.size.max_step_tokens:
                break
        going_on = runs
        while rows:
            logits = self._stage.run(rows, ids)
            if going_on:
                self._add_tokens(going_on, logits)
            going_on = [run for run in going_on if not run.is_over]
            rows, ids = [self._next_row(run) for run in going_on], [run.draft.ids[-1] for run in going_on]
        return runs

    def _reserve_for(self, lengths: Mapping[int, int]) -> list[tuple[_Sequence, Reservation]]:
        """Sequences that can be drafted for; the one that is least behind comes first."""
        found: list[tuple[_Sequence, Reservation]] = []
        for request, num_drafts in lengths.items():
            sequence = self._sequences[request]
            if sequence.is_foreign:
                continue
            is_new = self.reservations.get(request) is None
            reservation = self.reservations.reserve(request, len(sequence.ids) + num_drafts - 1)
            if reservation is None:
                continue
            if is_new:
                self._stage.open_slot(reservation.slot)
                self._chooser.open(reservation.slot, sequence.command)
            found.append((sequence, reservation))
        return sorted(found, key=lambda each: len(each[0].ids) - each[1].num_computed_tokens)

    def _catch_up(self, sequence: _Sequence, reservation: Reservation, most: int) -> Row:
        """The sequence's next tokens, its last one at least; the last is sampled if it was not far behind."""
        start = min(reservation.num_computed_tokens, len(sequence.ids) - 1)
        num_pending = len(sequence.ids) - start
        num_tokens = min(num_pending, most)
        reservation.num_computed_tokens = start + num_tokens
        sequence.computed_drafts.clear()
        is_near = num_tokens == num_pending and num_pending <= _MOST_BEHIND
        return Row(reservation.slot, start, num_tokens, int(is_near), reservation.take_new_blocks(), rewind=True)

    def _add_tokens(self, runs: list[_Run], logits: object) -> None:
        """Add a token to each draft, and note whose is over."""
        slots = [run.reservation.slot for run in runs]
        positions = [run.reservation.num_computed_tokens for run in runs]
        for run, chosen in zip(runs, self._chooser.choose(logits, slots, positions), strict=True):
            if not 0 <= chosen.token < self._vocabularies.target:
                run.is_over = True
                continue
            run.draft.ids.append(chosen.token)
            if chosen.draft_probs is not None:
                run.draft.draft_probs.append(chosen.draft_probs)
            run.is_over = len(run.draft.ids) == run.num_drafts or chosen.token in run.sequence.end_ids

    def _next_row(self, run: _Run) -> Row:
        """A row for the token that was drafted last."""
        reservation = run.reservation
        row = Row(reservation.slot, reservation.num_computed_tokens, 1, 1, reservation.take_new_blocks(), rewind=True)
        run.sequence.computed_drafts.append(run.draft.ids[-1])
        reservation.num_computed_tokens += 1
        return row

    def _has_foreign(self, ids: Sequence[int]) -> bool:
        return max(ids, default=0) >= self._vocabularies.draft


def _num_equal(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common beginning of both."""
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count
