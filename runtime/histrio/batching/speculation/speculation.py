"""Speculation as batching sees it: for which sequences this step has drafts, and what is learned from them.

Whether anything is drafted is decided in one place, by measurement: an account of what drafts gave and what they cost
(`draft_account.py`), against steps without drafts (`plain_steps.py`). How many tokens are drafted for a sequence
follows from its rate of accepted drafts (`acceptance_rate.py`) and from what one more costs (`draft_lengths.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from histrio.batching.speculation.acceptance_rate import FIRST_RATE, AcceptanceRate
from histrio.batching.speculation.cost import CostModel
from histrio.batching.speculation.draft_account import DraftAccount
from histrio.batching.speculation.draft_lengths import worthwhile_lengths
from histrio.batching.speculation.drafter_guard import DrafterGuard
from histrio.batching.speculation.plain_steps import PlainSteps
from histrio.config.settings import SpeculationSettings
from histrio.contracts.drafter import Drafter

if TYPE_CHECKING:
    from histrio.batching.sequence import Sequence
    from histrio.batching.step_plan import Plan

__all__ = ["Speculation"]

_FOLLOW = 0.08
"""Weight of the newest verified draft in a sequence's rate, and of the newest round in the time of drafting."""
_FORGET = 0.003
"""Per token without drafts, a sequence's rate moves towards the rate of all by this share, and per step the time of
drafting towards 0: so that drafting is tried again."""
_FOLLOW_ALL = 0.03
_FORGET_ALL = 0.0001
"""The same two for the rate of all sequences together, at which a new sequence begins; it moves towards the first rate
of all."""
_LOOK_EVERY = 8
"""Tokens of a sequence for which drafts don't pay until drafting is considered again: it should cost a busy batch
nothing."""


class Speculation:
    """Asks the drafter for drafts of the sequences that are about to decode, and learns from their acceptance."""

    def __init__(
        self,
        settings: SpeculationSettings,
        drafter: Drafter | DrafterGuard,
        cost: CostModel,
        clock: Callable[[], float],
    ) -> None:
        self.num_drafted_rows = 0
        self.num_drafted_tokens = 0
        self.num_accepted_tokens = 0
        """How many of the drafted tokens were accepted."""
        self._settings = settings
        self._drafter = drafter if isinstance(drafter, DrafterGuard) else DrafterGuard(drafter)
        self._cost = cost
        self._clock = clock
        self._drafting_s: dict[int, float] = {}
        """Bit length of a number of sequences → seconds to draft one token for each of them."""
        self._num_decoding = 1
        self._plain_s = 0.0
        """Seconds of a step of the decoding sequences without drafts."""
        self._verifying = 0.0
        """Cost of verifying one drafted token, in tokens: verification time x tokens per second without drafts."""
        self._account = DraftAccount()
        self._plain = PlainSteps(cost)
        self._is_measuring = False
        """Whether this step is left without drafts, to measure what such steps take."""
        self._num_entered = 0
        """How many of the accepted tokens are in the account."""
        self._settled_at = clock()
        self._asking_s: float | None = None
        """How long the drafter has worked since then, if it was asked."""
        self._was_plain = False
        """Whether the drafter was not asked for the last step."""
        self._had_drafts = False
        """Whether the last step verified drafts."""
        self._all = AcceptanceRate()
        """Rate of accepted drafts of all sequences so far."""
        self._num_told: dict[int, int] = {}
        """Request → tokens of it that the drafter knows."""

    def set_price(self, num_decoding: int, context: int) -> None:
        """`num_decoding` sequences decode now, with `context` tokens together: they share the cost of a step."""
        self._num_decoding = num_decoding
        self._plain_s = self._plain.busy_s(num_decoding, context)
        verifying = self._cost.seconds_of_token(context // num_decoding)
        self._verifying = verifying * num_decoding / self._plain_s
        self._is_measuring = not self._settings.is_obliging and self._plain.must_measure(num_decoding)
        self._all.forget(num_decoding, FIRST_RATE, _FORGET_ALL)
        for size in self._drafting_s:
            self._drafting_s[size] *= 1 - _FORGET

    def propose(self, sequences: Iterable[Sequence]) -> None:
        """Fill in `drafts` of these sequences, which have one token to compute each."""
        chosen = self._choose_lengths(sequences)
        if not chosen:
            return

        began = self._clock()
        for sequence, _ in chosen.values():
            self._tell(sequence)
        asked = self._clock()
        found = self._drafter.propose({request: length for request, (_, length) in chosen.items()})
        ended = self._clock()
        self._asking_s = (self._asking_s or 0.0) + ended - began
        if len(found) == len(chosen):  # a sequence without a draft may have cost time for its next one
            self._time(len(chosen), (ended - asked) / max(length for _, length in chosen.values()))
        for request, draft in found.items():
            chosen[request][0].drafted.put(draft)

    def may_draft(self, sequence: Sequence) -> bool:
        """Whether the next step could have drafts of the sequence."""
        return self._is_active and len(sequence.ids) >= sequence.drafted.next_look

    def judge(self, sequence: Sequence, num_gained: int) -> tuple[int, int]:
        """A row with drafts was answered: learn from them. How many there were, and how many came true."""
        num_drafted = len(sequence.drafted.ids)
        num_accepted = min(num_gained - 1, num_drafted)
        drafted = sequence.drafted
        if not drafted.acceptance.num_seen:
            drafted.acceptance.rate = self._all.rate
        drafted.acceptance.observe(num_drafted, num_accepted, _FOLLOW)
        drafted.num_judged_tokens = len(sequence.ids)
        self._all.observe(num_drafted, num_accepted, _FOLLOW_ALL)
        self.num_drafted_rows += 1
        self.num_drafted_tokens += num_drafted
        self.num_accepted_tokens += num_accepted
        drafted.drop()
        return num_drafted, num_accepted

    def settle(self, plan: Plan, busy_s: float) -> None:
        """A step was answered and judged that kept the stages busy for so long: what did its drafts give, and cost?"""
        now, asking_s = self._clock(), self._asking_s
        waiting_s = max(now - self._settled_at - busy_s, 0.0)
        self._settled_at, self._asking_s = now, None
        if not self._cost.is_trusted:
            return

        num_rows, num_drafts = len(plan.rows), len(plan.drafts)
        num_pairs = plan.num_pairs * num_rows / len(plan.ids)
        is_decoding = plan.num_decoding_drafts is not None
        saved = (self.num_accepted_tokens - self._num_entered) / (num_rows if is_decoding else self._num_decoding)
        self._num_entered = self.num_accepted_tokens
        had_drafts, self._had_drafts = self._had_drafts, num_drafts > 0
        was_plain, is_plain = self._was_plain, not num_drafts and asking_s is None
        self._was_plain = is_plain
        # A step after one with drafts may be longer: backends go back, and cannot use what they kept for the next one.
        if is_decoding and not num_drafts and not had_drafts:
            self._plain.observe_busy(num_rows, num_pairs, busy_s)
        if is_decoding and is_plain and was_plain:  # the first one was scheduled after the last
            self._plain.observe_waiting(num_rows, waiting_s, busy_s)
        if is_plain:
            if any(sequence.may_have_drafts for sequence in plan.sequences):
                self._account.enter_plain()
            return

        if is_decoding:
            longer = self._plain.share_longer(num_rows, num_pairs, busy_s, waiting_s)
        else:  # beside a prompt the time of drafts cannot be told apart
            longer = (asking_s or 0.0) / self._plain_s + num_drafts * self._verifying / self._num_decoding
        self._account.enter_drafted(saved, longer)

    def close(self, sequence: Sequence) -> None:
        """The sequence ended, or was preempted."""
        if sequence.request in self._num_told:
            self._tell(sequence)
            del self._num_told[sequence.request]
            self._drafter.close(sequence.request)

    def close_all(self) -> None:
        """All sequences are gone: the epoch is over."""
        for request in self._num_told:
            self._drafter.close(request)
        self._num_told.clear()

    @property
    def _is_active(self) -> bool:
        """Whether any sequence may have drafts in this step."""
        if not self._drafter.is_on:
            return False
        return self._settings.is_obliging or (self._account.is_open and not self._is_measuring)

    def _choose_lengths(self, sequences: Iterable[Sequence]) -> dict[int, tuple[Sequence, int]]:
        """Request → its sequence and how many tokens to draft."""
        is_active = self._is_active
        looked_at = []
        for sequence in sequences:
            sequence.drafted.drop()
            if is_active and len(sequence.ids) >= sequence.drafted.next_look:
                looked_at.append(sequence)
        if not looked_at:
            return {}

        drafting = self._drafting_time(len(looked_at)) / self._plain_s * self._num_decoding
        rates = [self._rate(sequence) for sequence in looked_at]
        lengths = worthwhile_lengths(rates, self._settings, self._verifying, drafting)
        chosen = {}
        for sequence, length in zip(looked_at, lengths, strict=True):
            length = min(length, sequence.num_useful_drafts)
            if length > 0:
                chosen[sequence.request] = (sequence, length)
            else:
                sequence.drafted.next_look = len(sequence.ids) + _LOOK_EVERY
        return chosen

    def _rate(self, sequence: Sequence) -> float:
        drafted, acceptance, num_known = sequence.drafted, sequence.drafted.acceptance, len(sequence.ids)
        if not acceptance.num_seen:
            return self._all.rate
        if num_known > drafted.num_judged_tokens:
            acceptance.forget(num_known - drafted.num_judged_tokens, self._all.rate, _FORGET)
            drafted.num_judged_tokens = num_known
        return acceptance.rate

    def _tell(self, sequence: Sequence) -> None:
        """Tell the drafter the sequence, or its tokens since the last time: not with every token, because a batch
        without drafts does not need it."""
        request = sequence.request
        num_told = self._num_told.get(request)
        if num_told is None:
            self._drafter.open(sequence.command, sequence.ids)
        elif num_told < len(sequence.ids):
            self._drafter.extend(request, sequence.ids[num_told:])
        self._num_told[request] = len(sequence.ids)

    def _drafting_time(self, num_sequences: int) -> float:
        """Least seconds to draft one token for each of `num_sequences`, from the time measured for the nearest
        number. More sequences take no less, and fewer take no less than their share."""
        size = num_sequences.bit_length()
        nearest = min(self._drafting_s, key=lambda known: abs(known - size), default=size)
        return self._drafting_s.get(nearest, 0.0) * 2.0 ** min(size - nearest, 0)

    def _time(self, num_sequences: int, seconds: float) -> None:
        size = num_sequences.bit_length()
        known = self._drafting_s.get(size)
        self._drafting_s[size] = seconds if known is None else known + _FOLLOW * (seconds - known)
