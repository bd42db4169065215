"""Speculation as batching sees it: for which sequences this step has drafts, and what is learned from them.

Each sequence has a rate of accepted drafts (`acceptance_rate.py`); the time of a step and of drafting is measured. The
best length of the drafts follows from these (`draft_lengths.py`). A step with drafts also costs a share f more, however
few there are, because its rows are no longer alike. So all drafts of a step together have to give more than f N tokens
beyond what they cost; otherwise the step has none. Their gains and costs are entered in an account
(`draft_account.py`), which stops drafts that cost more than they gave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from histrio.batching.speculation.acceptance_rate import FIRST_RATE, AcceptanceRate
from histrio.batching.speculation.cost import CostModel
from histrio.batching.speculation.draft_account import ALLOWANCE, DraftAccount
from histrio.batching.speculation.draft_lengths import tokens_gained, worthwhile_lengths
from histrio.batching.speculation.drafter_guard import DrafterGuard
from histrio.config.settings import SpeculationSettings
from histrio.contracts.drafter import Drafter

if TYPE_CHECKING:
    from histrio.batching.sequence import Sequence
    from histrio.batching.step_plan import Plan

__all__ = ["Speculation"]

_FOLLOW = 0.15
"""Weight of the newest verified draft in the rate."""
_FORGET_PER_TOKEN = 0.003
"""Per token without drafts, a sequence's rate moves towards the first rate by this share, to retry drafting."""
_FORGET_TIME = 0.003
"""The same for the time of drafting, per step: a measured time need not hold for ever."""
_FOLLOW_ALL = 0.03
_FORGET_ALL_PER_TOKEN = 0.0001
"""The same two for the rate of all sequences together, at which a new sequence begins."""
_LEAST_FIRST_RATE = 0.15
"""Least rate at which a new sequence begins, so that text that has become easy to draft is noticed."""
_LOOK_EVERY = 8
"""Tokens of a sequence for which drafts don't pay, or steps in which all drafts together don't pay, until drafting is
considered again: it should cost a busy batch nothing."""


class Speculation:
    """Asks the drafter for drafts of the sequences that are about to decode, and learns from their acceptance."""

    def __init__(
        self,
        settings: SpeculationSettings,
        drafter: Drafter | DrafterGuard,
        cost: CostModel,
        clock: Callable[[], float],
    ) -> None:
        self.num_drafted_tokens = 0
        self.num_accepted_tokens = 0
        self.num_drafted_rows = 0
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
        self._threshold = 0.0
        """Fixed cost of a step that has any drafts at all, in tokens."""
        self._num_quiet_steps = 0
        """Steps for which drafting is still skipped, because all drafts together did not pay."""
        self._account = DraftAccount()
        self._num_entered = 0
        """How many of the accepted tokens are in the account."""
        self._all = AcceptanceRate()
        """Rate of accepted drafts of all sequences so far."""
        self._num_told: dict[int, int] = {}
        """Request → tokens of it that the drafter knows."""

    def set_price(self, num_decoding: int, context: int) -> None:
        """`num_decoding` sequences decode now, with `context` tokens together: they share the cost of a step."""
        self._num_decoding = num_decoding
        self._plain_s = max(self._cost.plain_seconds(num_decoding, context), 1e-9)
        longer = self._cost.surcharge(num_decoding)
        verifying = (1 + longer) * self._cost.seconds_of_token(context // num_decoding)
        self._verifying = verifying * num_decoding / self._plain_s
        self._threshold = longer * num_decoding
        self._all.forget(num_decoding, FIRST_RATE, _FORGET_ALL_PER_TOKEN)
        self._num_quiet_steps = max(self._num_quiet_steps - 1, 0)
        for size in self._drafting_s:
            self._drafting_s[size] *= 1 - _FORGET_TIME

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
        num_paid = (ended - began) / self._plain_s
        self._account.pay(num_paid)
        if len(found) == len(chosen):  # a sequence without a draft may have cost time for its next one
            self._time(len(chosen), (ended - asked) / max(length for _, length in chosen.values()))

        drafts = [(chosen[request][0], draft) for request, draft in found.items()]
        lengths = [(self._rate(sequence), len(draft.ids)) for sequence, draft in drafts]
        if self._settings.is_obliging or tokens_gained(lengths) > self._price_of(sum(length for _, length in lengths)):
            for sequence, draft in drafts:
                sequence.drafted.put(draft)
        else:
            # Skip drafting for a few steps, so that drafter calls whose result is thrown away stay within ALLOWANCE.
            self._num_quiet_steps = min(int(num_paid / ALLOWANCE), _LOOK_EVERY)

    def may_draft(self, sequence: Sequence) -> bool:
        """Whether the next step could have drafts of the sequence."""
        return self._is_active and len(sequence.ids) >= sequence.drafted.next_look

    def judge(self, sequence: Sequence, num_gained: int) -> tuple[int, int]:
        """A row with drafts was answered: learn from them. How many there were, and how many came true."""
        num_drafted = len(sequence.drafted.ids)
        num_accepted = min(num_gained - 1, num_drafted)
        drafted = sequence.drafted
        if not drafted.acceptance.num_seen:
            drafted.acceptance.rate = self._first_rate
        drafted.acceptance.observe(num_drafted, num_accepted, _FOLLOW)
        drafted.num_judged_tokens = len(sequence.ids)
        self._all.observe(num_drafted, num_accepted, _FOLLOW_ALL)
        self.num_drafted_rows += 1
        self.num_drafted_tokens += num_drafted
        self.num_accepted_tokens += num_accepted
        drafted.drop()
        return num_drafted, num_accepted

    def settle(self, plan: Plan, busy_s: float) -> None:
        """A step was answered and judged that took `busy_s`: what did its drafts give, and what did they cost?"""
        saved = (self.num_accepted_tokens - self._num_entered) / self._num_decoding
        self._num_entered = self.num_accepted_tokens
        num_rows, num_drafts = len(plan.rows), len(plan.drafts)
        if not num_drafts:
            if any(sequence.may_have_drafts for sequence in plan.sequences):
                self._account.enter_plain()
        elif plan.num_decoding_drafts is None:  # beside a prompt the time of drafts cannot be told apart
            self._account.enter_drafted(saved, num_drafts * self._verifying / self._num_decoding)
        else:
            plain_s = self._cost.plain_seconds(num_rows, plan.num_pairs * num_rows / len(plan.ids))
            self._account.enter_drafted(saved, busy_s / max(plain_s, 1e-9) - 1)

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
        return self._settings.is_obliging or (self._account.is_open and not self._num_quiet_steps)

    def _choose_lengths(self, sequences: Iterable[Sequence]) -> dict[int, tuple[Sequence, int]]:
        """Request → its sequence and how many tokens to draft; empty where all drafts together don't pay."""
        is_active = self._is_active
        looked_at = []
        for sequence in sequences:
            sequence.drafted.drop()
            if is_active and len(sequence.ids) >= sequence.drafted.next_look and self._is_hopeful(sequence):
                looked_at.append(sequence)
        if not looked_at:
            return {}

        rates = [self._rate(sequence) for sequence in looked_at]
        drafting = self._drafting_time(len(looked_at)) / self._plain_s * self._num_decoding
        lengths = worthwhile_lengths(rates, self._settings, self._verifying, drafting)
        cost = self._price_of(sum(lengths)) + drafting * max(lengths)
        if not self._settings.is_obliging and tokens_gained(zip(rates, lengths, strict=True)) <= cost:
            self._num_quiet_steps = _LOOK_EVERY
            return {}

        chosen = {}
        for sequence, length in zip(looked_at, lengths, strict=True):
            length = min(length, sequence.num_useful_drafts)
            if length > 0:
                chosen[sequence.request] = (sequence, length)
        return chosen

    def _is_hopeful(self, sequence: Sequence) -> bool:
        """Whether drafts could pay for this sequence; if not, it is not considered for a while."""
        if self._settings.is_obliging or self._rate(sequence) > self._verifying:
            return True

        sequence.drafted.next_look = len(sequence.ids) + _LOOK_EVERY
        return False

    def _price_of(self, num_drafts: int) -> float:
        """Cost of `num_drafts` drafts in a step, in tokens: extra time x tokens per second without drafts."""
        return self._threshold + self._verifying * num_drafts

    def _rate(self, sequence: Sequence) -> float:
        drafted, acceptance, num_known = sequence.drafted, sequence.drafted.acceptance, len(sequence.ids)
        if not acceptance.num_seen:
            return self._first_rate
        if num_known > drafted.num_judged_tokens:
            acceptance.forget(num_known - drafted.num_judged_tokens, self._first_rate, _FORGET_PER_TOKEN)
            drafted.num_judged_tokens = num_known
        return acceptance.rate

    @property
    def _first_rate(self) -> float:
        return max(self._all.rate, _LEAST_FIRST_RATE)

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
