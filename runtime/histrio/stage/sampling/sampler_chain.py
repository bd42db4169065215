"""From logits to tokens on the last stage: a chain of samplers, then one draw per row.

A row's token depends on that row alone: its logits, its request fields and its (seed, choice, position). Whatever is
decided for a row is decided from the row, never from the batch it happens to be in. Rows whose temperature is 0 are
greedy: constraints and penalties, then argmax and nothing else.

Drafts are verified by drawing. Each row of a sequence draws the model's own token with its own number, as if the
drafted tokens before it were accepted; they are, up to the first that differs from what was drawn there. So a stream
with drafts is the very stream without them, greedy or sampled. Where the client chose no seed, and the
distributions of the drafts are known, more drafts are accepted: see `acceptance`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import Array, ArrayNamespace
from histrio.contracts.philox import uniform
from histrio.contracts.request_fields import FieldTable
from histrio.contracts.sampler import LogitsRows, Observer, Opening, Sampler, Slots, Stateful
from histrio.errors import note_request_code
from histrio.messages import Open, SamplingFields, TokenLogprobs
from histrio.stage.sampling.acceptance import Proposals, accept_or_draw
from histrio.stage.sampling.inverse_cdf import draw
from histrio.stage.sampling.token_scores import TokenScorer
from histrio.system.flight_record import Code

if TYPE_CHECKING:
    from histrio.contracts.sampler import DraftProbs

__all__ = ["NOTHING_LEFT", "NOT_NUMBERS", "Drafts", "Sampled", "SamplerChain"]

Ints = npt.NDArray[Any]
Drafts = Mapping[int, Sequence[int]]
"""Slot → drafted tokens, of which its rows after the first are the verification."""

_FIRST_PENALTY_ORDER = 40
"""Samplers below may remove every token, those from here on always leave one."""
_FIRST_SHAPING_ORDER = 100
"""Samplers from here on shape a distribution, which means nothing to an argmax; those below change the logits."""

NOTHING_LEFT = -1
"""Stands for a token where the request's own fields removed every one."""
NOT_NUMBERS = -2
"""Stands for a token where the model's logits are not numbers."""
_ONE_ROW_EACH = "a sequence needs one row for each of its drafts, and one more"


@dataclass(slots=True)
class Sampled:
    """What a step's sequences gained."""

    ids: list[int]
    """The tokens that count, in row order; `NOTHING_LEFT` or `NOT_NUMBERS` where there is none."""
    num_ids: list[int] = field(default_factory=list)
    """With drafts, how many of `ids` each sequence of the step gained: the drafts accepted and one more. Empty without
    drafts, when each row gains one."""
    logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)
    """Index into `ids` → its log probabilities, where the sequence asked for them."""


class SamplerChain:
    """The samplers of one last stage with their per-slot state, and the draws.

    `samplers` are classes in any order, `max_slots` is the number of slots. Raises `PluginError` as `FieldTable` does.
    """

    def __init__(self, samplers: Sequence[type[Sampler]], max_slots: int) -> None:
        self.fields = FieldTable(samplers)
        self._samplers = [kind(max_slots) for kind in sorted(samplers, key=lambda kind: (kind.order, kind.name))]
        self._codes = [_SamplerCode(sampler) for sampler in self._samplers]
        self._indices = {sampler.name: index for index, sampler in enumerate(self._samplers)}
        always = {index for index, each in enumerate(self._samplers) if not each.params.__struct_fields__}
        self._always_opened = frozenset(always)
        """Samplers without a field that could ask for them."""
        self._to_open = [set(range(len(self._samplers))) for _ in range(max_slots)]
        """Of each slot the samplers that must hear of its next sequence, whatever that asks for: those that a sequence
        there has used, and at first all."""
        self._num_constraining = sum(sampler.order < _FIRST_PENALTY_ORDER for sampler in self._samplers)
        self._num_changing = sum(sampler.order < _FIRST_SHAPING_ORDER for sampler in self._samplers)
        self._is_active = np.zeros((max_slots, len(self._samplers)), np.bool_)
        self._is_open = np.zeros(max_slots, np.bool_)
        self._is_greedy = np.zeros(max_slots, np.bool_)
        self._is_plain = np.zeros(max_slots, np.bool_)
        """Open, greedy, and no sampler wants more than an argmax."""
        self._is_observed = np.zeros(max_slots, np.bool_)
        """Some sampler that wants the slot follows its tokens."""
        self._scorer = TokenScorer(max_slots)
        self._seeds = np.zeros(max_slots, np.uint64)
        self._choices = np.zeros(max_slots, np.uint32)
        self._can_refuse = np.zeros(max_slots, np.bool_)
        """Sampled, and the client chose no seed: which tokens come may depend on what was drafted."""
        self._can_skip_draws = [True] * max_slots
        self._observers = frozenset(index for index, each in enumerate(self._samplers) if isinstance(each, Observer))
        self._changed_slots: set[int] = set()

    def open(self, command: Open) -> None:
        """A sequence takes a slot; `RequestError` for a field that no sampler here knows, or out of its bounds.

        A temperature of 0 is known without any sampler. `seed` is taken modulo 2^64; if the client did not choose it,
        drafts may change which tokens come, though not how likely they are. `sampler_state` is what `take_states` gave
        last for the sequence.
        """
        slot, ask, sampling = command.slot, command.ask, command.ask.sampling
        is_greedy = sampling.get("temperature") == 0
        if is_greedy:
            sampling = {name: value for name, value in sampling.items() if name != "temperature"}

        self.fields.check(sampling)
        active = self._open_samplers(command, sampling)
        if is_greedy:
            active = [index for index in active if index < self._num_changing]
        self._is_active[slot] = False
        self._is_active[slot, active] = True

        self._is_open[slot] = True
        self._is_greedy[slot] = is_greedy
        self._is_observed[slot] = not self._observers.isdisjoint(active)
        self._scorer.open(slot, ask)
        is_scored = ask.num_logprobs is not None
        self._is_plain[slot] = is_greedy and not is_scored and not active
        is_constrained = bool(active) and active[0] < self._num_constraining
        self._can_skip_draws[slot] = not is_scored and not is_constrained
        self._seeds[slot] = command.seed % 2**64
        self._choices[slot] = command.choice
        self._can_refuse[slot] = not is_greedy and not ask.is_seeded
        self._changed_slots.discard(slot)

    def _open_samplers(self, command: Open, sampling: SamplingFields) -> list[int]:
        """Open those samplers of which the sequence has a field, and those that may still hold what another sequence
        left in the slot; the others do nothing by default. The indices of those that it wants, ascending."""
        to_open, used = self._to_open[command.slot], {self._indices[name] for name in self.fields.owners(sampling)}
        to_open |= used | self._always_opened
        active: list[int] = []
        for index in sorted(to_open):
            sampler = self._samplers[index]
            state = command.sampler_state.get(sampler.name)
            opening = Opening(command.ids, command.num_prompt_tokens, command.ask.end_ids, state)
            with self._codes[index]:
                if sampler.open(command.slot, self.fields.params(type(sampler), sampling), opening):
                    active.append(index)
        self._to_open[command.slot] = used.union(active)
        return active

    def open_bare(self, slot: int) -> None:
        """A sequence that cannot be opened takes the slot and is about to end: no sampler hears of it."""
        self._is_active[slot] = self._is_observed[slot] = self._can_refuse[slot] = False
        self._is_open[slot] = self._is_greedy[slot] = self._is_plain[slot] = self._can_skip_draws[slot] = True
        self._scorer.open_bare(slot)
        self._changed_slots.discard(slot)

    def close(self, slot: int) -> None:
        """The slot is free. Closing a free slot does nothing."""
        self._is_open[slot] = self._is_plain[slot] = False
        self._changed_slots.discard(slot)

    def can_skip_draws(self, slot: int) -> bool:
        """Whether a token that a grammar leaves alone needs no draw: nothing was asked that its logits tell, and no
        constraint of the request could forbid even this one."""
        return self._can_skip_draws[slot]

    def observe_forced(self, slot: int, ids: Sequence[int]) -> None:
        """These tokens came next without a draw, each the only one possible."""
        if self._is_observed[slot]:
            self._observe(np.full(len(ids), slot, np.intp), np.array(ids, np.int64), np.ones(len(ids), np.float32))

    def take_states(self) -> dict[int, dict[str, Any]]:
        """Slot → sampler → state, of open slots whose state has changed since this was asked last.

        Given to `open` together with the tokens sampled so far, it goes on as if nothing had happened.
        """
        slots, self._changed_slots = self._changed_slots, set()
        return {slot: self._states(slot) for slot in slots}

    def sample(
        self,
        xp: ArrayNamespace,
        logits: Array,
        slots: Slots,
        positions: Ints,
        drafts: Drafts | None = None,
        draft_probs: Mapping[int, Sequence[DraftProbs]] | None = None,
        raw: Array | None = None,
    ) -> Sampled:
        """Draw for each row of `logits` [rows, vocab], which stay as they are.

        `slots` [rows] names the sequence of each row, `positions` [rows] the index in it of the token to be drawn. A
        slot in `drafts` has one row more than drafted tokens, side by side and ascending; for some of these slots
        `draft_probs` has the distribution from which each draft was drawn. `raw` are the model's own logits if a
        grammar has masked `logits`; tokens are scored by them.
        """
        if self._is_plain[slots].all():
            largest = _argmax(xp, logits)
            if largest.min(initial=0) < 0:
                _tell_apart(xp, logits if raw is None else raw, largest)
            kept, num_ids = _accept(largest, slots, drafts) if drafts else (slice(None), [])
            return Sampled(largest[kept].tolist(), num_ids)

        assert self._is_open[slots].all(), "a row is sampled whose slot is closed"
        ids, probabilities = np.zeros(len(slots), np.int64), np.ones(len(slots), np.float32)
        before = _drafts_before(slots, drafts) if drafts else ()
        proposals = self._proposals(slots, drafts, draft_probs) if drafts and draft_probs else None
        for chunk in _chunks(slots, max(1, xp.chunk_values // logits.shape[-1]), bool(drafts)):
            rows = self._rows(slots[chunk], positions[chunk], before[chunk])
            proposed = proposals.take(chunk) if proposals else None
            ids[chunk], probabilities[chunk] = self._sample_chunk(xp, logits[chunk], rows, proposed)

        raw = logits if raw is None else raw
        if ids.min(initial=0) < 0:
            _tell_apart(xp, raw, ids)
        kept, num_ids = _accept(ids, slots, drafts) if drafts else (np.arange(len(ids)), [])
        accepted = slots[kept]
        if self._is_observed[accepted].any():
            self._observe(accepted, ids[kept], probabilities[kept])
        scores = self._scorer.score(xp, raw, accepted, kept, ids[kept])
        return Sampled(ids[kept].tolist(), num_ids, scores)

    def _rows(self, slots: Slots, positions: Ints, drafts: Sequence[Sequence[int]]) -> LogitsRows:
        return LogitsRows(slots, positions, self._seeds[slots], self._choices[slots], drafts)

    def _proposals(
        self, slots: Slots, drafts: Drafts, draft_probs: Mapping[int, Sequence[DraftProbs]]
    ) -> Proposals | None:
        usable = {slot: drawn_from for slot, drawn_from in draft_probs.items() if self._can_refuse[slot]}
        return Proposals.of_step(slots, drafts, usable) if usable else None

    def _sample_chunk(
        self, xp: ArrayNamespace, logits: Array, rows: LogitsRows, proposals: Proposals | None
    ) -> tuple[Ints, npt.NDArray[np.float32]]:
        """The token of each of these rows, and what probability it had."""
        ids, probabilities = np.zeros(len(rows), np.int64), np.ones(len(rows), np.float32)
        active = np.flatnonzero(self._is_active[rows.slots].any(axis=0)).tolist()
        changing = [index for index in active if index < self._num_changing]
        shaping = [index for index in active if index >= self._num_changing]
        # Samplers may work in place, so they get a copy.
        changed = xp.float32(xp.take_rows(logits, np.arange(len(rows)))) if active else logits
        for index in changing:
            with self._codes[index]:
                changed = self._samplers[index].apply(xp, changed, rows)

        is_greedy = self._is_greedy[rows.slots]
        if is_greedy.any():
            ids[is_greedy] = _argmax(xp, changed)[is_greedy]
        if is_greedy.all():
            return ids, probabilities

        drawn = np.flatnonzero(~is_greedy)
        if len(drawn) < len(rows):
            changed, rows = xp.take_rows(changed, drawn), rows.take(drawn)
            proposals = proposals and proposals.take(drawn)
        for index in shaping:
            with self._codes[index]:
                changed = self._samplers[index].apply(xp, changed, rows)
        ids[drawn], probabilities[drawn] = _draw(xp, xp.float32(changed), rows, proposals)
        return ids, probabilities

    def _observe(self, slots: Slots, ids: Ints, probabilities: npt.NDArray[np.float32]) -> None:
        """Tell those samplers that follow the tokens of these sequences."""
        for index in self._observers:
            rows = np.flatnonzero(self._is_active[slots, index] & (ids >= 0))
            if len(rows) == 0:
                continue

            sampler = self._samplers[index]
            assert isinstance(sampler, Observer)
            with self._codes[index]:
                sampler.observe(slots[rows], ids[rows], probabilities[rows])
            if isinstance(sampler, Stateful):
                self._changed_slots.update(slots[rows].tolist())

    def _states(self, slot: int) -> dict[str, Any]:
        active = zip(self._samplers, self._is_active[slot], strict=True)
        return {each.name: each.state(slot) for each, is_active in active if is_active and isinstance(each, Stateful)}


def _chunks(slots: Slots, chunk_rows: int, has_drafts: bool) -> Iterator[slice]:
    """The rows a few at a time; those of one sequence stay together if they build upon each other."""
    start = 0
    while start < len(slots):
        end = min(start + chunk_rows, len(slots))
        while has_drafts and end < len(slots) and slots[end] == slots[end - 1]:
            end += 1
        yield slice(start, end)
        start = end


def _drafts_before(slots: Slots, drafts: Drafts) -> list[Sequence[int]]:
    """For each row, the drafted tokens between what is known of its sequence and its own position."""
    before: list[Sequence[int]] = []
    for slot, rows in groupby(slots.tolist()):
        drafted = drafts.get(slot, ())
        count = len(list(rows))
        assert count == len(drafted) + 1, _ONE_ROW_EACH
        before.extend(drafted[:end] for end in range(count))
    return before


def _accept(ids: Ints, slots: Slots, drafts: Drafts) -> tuple[npt.NDArray[np.intp], list[int]]:
    """The rows that count, up to and with the first of each sequence that differs from its draft, and how many each."""
    kept: list[int] = []
    num_ids: list[int] = []
    drawn, of_rows, first = ids.tolist(), slots.tolist(), 0
    while first < len(drawn):
        drafted = drafts.get(of_rows[first], ())
        rows = of_rows[first : first + len(drafted) + 1]
        assert len(rows) == len(drafted) + 1 == rows.count(rows[0]), _ONE_ROW_EACH
        count = 1 + _num_equal(list(drafted), drawn[first : first + len(drafted)])
        kept.extend(range(first, first + count))
        num_ids.append(count)
        first += len(drafted) + 1
    return np.array(kept, np.intp), num_ids


def _num_equal(drafted: list[int], drawn: list[int]) -> int:
    """How many tokens are the same up to the first that differs; both are of one length."""
    if drafted == drawn:
        return len(drafted)
    return next(at for at, (token, own) in enumerate(zip(drafted, drawn, strict=True)) if token != own)


def _draw(
    xp: ArrayNamespace, logits: Array, rows: LogitsRows, proposals: Proposals | None
) -> tuple[Ints, npt.NDArray[np.float32]]:
    """A token for each row, from what the samplers have left, and its probability."""
    if proposals is not None and not proposals.is_empty:
        return accept_or_draw(xp, logits, rows, proposals)
    return draw(xp, logits, uniform(rows.seeds, rows.choices, rows.positions))


def _argmax(xp: ArrayNamespace, logits: Array) -> Ints:
    """[rows] the first of the largest; -1 where that is no number, or where every token was removed."""
    largest = xp.argmax(logits)
    values = xp.to_host(xp.float32(xp.take_along(logits, largest[:, None])))[:, 0]
    ids = xp.to_host(largest)
    # An argmax over what is no number names a token all the same.
    return ids if np.isfinite(values).all() else np.where(np.isfinite(values), ids, NOTHING_LEFT)


def _tell_apart(xp: ArrayNamespace, logits: Array, ids: Ints) -> None:
    """Nothing could be drawn in the rows of negative `ids`: that is the request's doing, or else the model's."""
    rows = np.flatnonzero(ids < 0)
    largest = xp.to_host(xp.max(xp.float32(xp.take_rows(logits, rows))))[:, 0]
    ids[rows] = np.where(np.isfinite(largest), NOTHING_LEFT, NOT_NUMBERS)


class _SamplerCode(Code):
    """Whatever is raised inside says whose code it was."""

    __slots__ = ()

    def __init__(self, sampler: Sampler) -> None:
        super().__init__(f"sampler {sampler.name!r} ({type(sampler).__module__})")

    def __exit__(self, *error: object) -> None:
        super().__exit__()
        if isinstance(error[1], BaseException):
            note_request_code(error[1], self.name)
