"""Speculation as batching sees it: whose tokens are guessed in this step, and what is learned from it.

How often drafts come true is known of each sequence (`acceptance_rate.py`), what a step and a guess take is measured;
from these follows how long drafts should be (`draft_lengths.py`). A step with drafts also costs a share f more, however
few there are, because its rows are no longer alike. So all drafts of a step together have to give more than f N tokens
beyond what they cost; otherwise it goes without. What comes of it is entered in an account (`draft_account.py`), which
stops drafts that cost more than they gave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from histrio.batching.speculation.acceptance_rate import FIRST_RATE, AcceptanceRate
from histrio.batching.speculation.cost import CostModel
from histrio.batching.speculation.draft_account import ALLOWANCE, DraftAccount
from histrio.batching.speculation.draft_lengths import tokens_gained, worthwhile_lengths
from histrio.batching.speculation.drafter_guard import DrafterGuard
from histrio.contracts.drafter import Drafter, SpeculationLimits

if TYPE_CHECKING:
    from histrio.batching.sequence import Sequence
    from histrio.batching.step_plan import Plan

__all__ = ["Speculation"]

_FOLLOW = 0.15
"""Weight of the newest verified draft in the rate."""
_FORGET_PER_TOKEN = 0.003
"""How far the rate goes back to the first guess with every token that came without drafts: so it is tried again."""
_FORGET_TIME = 0.003
"""The same for what a guess costs, with every step without one: what was measured once may not hold for ever."""
_FOLLOW_ALL = 0.03
_FORGET_ALL_PER_TOKEN = 0.0001
"""The same two for all sequences together: where one begins that nothing is known of."""
_LEAST_FIRST_RATE = 0.15
"""It is never taken for lower, so that what has become easy to guess is noticed."""
_LOOK_EVERY = 8
"""Tokens of a sequence that doesn't pay, or steps of all where they don't pay together, until the next look: a busy
batch should not notice that there is one."""


class Speculation:
    """Asks the drafter for the sequences that are about to decode, and learns from what became of it."""

    def __init__(
        self, limits: SpeculationLimits, drafter: Drafter | DrafterGuard, cost: CostModel, clock: Callable[[], float]
    ) -> None:
        self.num_drafted_tokens = 0
        self.num_accepted_tokens = 0
        """Of those drafted, how many came true."""
        self._limits = limits
        self._drafter = drafter if isinstance(drafter, DrafterGuard) else DrafterGuard(drafter)
        self._cost = cost
        self._clock = clock
        self._guess_s: dict[int, float] = {}
        """Bit length of a number of sequences → seconds to guess one token ahead for all of them."""
        self._num_decoding = 1
        self._plain_s = 0.0
        """Seconds of a step of these without drafts."""
        self._verifying = 0.0
        """Tokens that the time to verify one draft would give otherwise."""
        self._threshold = 0.0
        """Tokens that the time would give which drafts cost besides, whatever their number."""
        self._num_quiet_steps = 0
        """Steps that nobody is looked at, because all together did not pay."""
        self._account = DraftAccount()
        self._num_entered = 0
        """Of the tokens that came true, how many are in the account."""
        self._all = AcceptanceRate()
        """Of all sequences so far."""
        self._num_told: dict[int, int] = {}
        """Request → tokens of it that the drafter knows."""

    def set_price(self, num_decoding: int, context: int) -> None:
        """So many sequences decode now, with `context` tokens together: they share what a step costs."""
        self._num_decoding = num_decoding
        self._plain_s = max(self._cost.plain_seconds(num_decoding, context), 1e-9)
        longer = self._cost.surcharge(num_decoding)
        verifying = (1 + longer) * self._cost.seconds_of_token(context // num_decoding)
        self._verifying = verifying * num_decoding / self._plain_s
        self._threshold = longer * num_decoding
        self._all.forget(num_decoding, FIRST_RATE, _FORGET_ALL_PER_TOKEN)
        self._num_quiet_steps = max(self._num_quiet_steps - 1, 0)
        for size in self._guess_s:
            self._guess_s[size] *= 1 - _FORGET_TIME

    def propose(self, sequences: Iterable[Sequence]) -> None:
        """Fill in `drafts` of these sequences, which have one token to compute each."""
        wanted = self._wanted(sequences)
        if not wanted:
            return

        began = self._clock()
        for sequence, _ in wanted.values():
            self._tell(sequence)
        asked = self._clock()
        found = self._drafter.propose({request: length for request, (_, length) in wanted.items()})
        ended = self._clock()
        num_paid = (ended - began) / self._plain_s
        self._account.pay(num_paid)
        if len(found) == len(wanted):  # whoever was left out may have been prepared for the next time
            self._time(len(wanted), (ended - asked) / max(length for _, length in wanted.values()))

        drafts = [(wanted[request][0], draft) for request, draft in found.items()]
        lengths = [(self._rate(sequence), len(draft.ids)) for sequence, draft in drafts]
        if self._limits.is_obliging or tokens_gained(lengths) > self._price_of(sum(length for _, length in lengths)):
            for sequence, draft in drafts:
                sequence.drafts, sequence.draft_probs = draft.ids, draft.draft_probs
        else:
            # Asking in vain takes no more than the allowance, or there is nothing left of it for drafts.
            self._num_quiet_steps = min(int(num_paid / ALLOWANCE), _LOOK_EVERY)

    def may_draft(self, sequence: Sequence) -> bool:
        """Whether the next step could have drafts of the sequence."""
        return self._is_active and len(sequence.ids) >= sequence.next_look

    def judge(self, sequence: Sequence, num_gained: int) -> tuple[int, int]:
        """A row with drafts was answered: learn from them. How many there were, and how many came true."""
        num_drafted = len(sequence.drafts)
        num_accepted = min(num_gained - 1, num_drafted)
        if not sequence.acceptance.num_seen:
            sequence.acceptance.rate = self._first_rate
        sequence.acceptance.observe(num_drafted, num_accepted, _FOLLOW)
        sequence.num_judged_tokens = len(sequence.ids)
        self._all.observe(num_drafted, num_accepted, _FOLLOW_ALL)
        self.num_drafted_tokens += num_drafted
        self.num_accepted_tokens += num_accepted
        sequence.drafts, sequence.draft_probs = [], []
        return num_drafted, num_accepted

    def settle(self, plan: Plan, busy_s: float) -> None:
        """A step was answered and judged that took `busy_s`: what did its drafts give, and what did they cost?"""
        saved = (self.num_accepted_tokens - self._num_entered) / self._num_decoding
        self._num_entered = self.num_accepted_tokens
        num_rows, num_drafts = len(plan.rows), len(plan.drafts)
        if not num_drafts:
            if any(sequence.may_have_drafts for sequence in plan.sequences):
                self._account.enter_plain()
        elif plan.num_decoding_drafts is None:  # beside a prompt nobody can tell what took how long
            self._account.enter_drafted(saved, num_drafts * self._verifying / self._num_decoding)
        else:
            plain_s = self._cost.plain_seconds(num_rows, plan.num_pairs * num_rows / len(plan.ids))
            self._account.enter_drafted(saved, busy_s / max(plain_s, 1e-9) - 1)

    def close(self, sequence: Sequence) -> None:
        """The sequence ended, or lost its place."""
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
        """Whether anything is guessed at all, as things stand."""
        if not self._drafter.is_on:
            return False
        return self._limits.is_obliging or (self._account.is_open and not self._num_quiet_steps)

    def _wanted(self, sequences: Iterable[Sequence]) -> dict[int, tuple[Sequence, int]]:
        """For whom how many tokens are to be guessed: nobody where it doesn't pay together."""
        is_active = self._is_active
        looked_at = []
        for sequence in sequences:
            if sequence.drafts:
                sequence.drafts, sequence.draft_probs = [], []
            if is_active and len(sequence.ids) >= sequence.next_look and self._is_hopeful(sequence):
                looked_at.append(sequence)
        if not looked_at:
            return {}

        rates = [self._rate(sequence) for sequence in looked_at]
        guessing = self._guess_time(len(looked_at)) / self._plain_s * self._num_decoding
        lengths = worthwhile_lengths(rates, self._limits, self._verifying, guessing)
        cost = self._price_of(sum(lengths)) + guessing * max(lengths)
        if not self._limits.is_obliging and tokens_gained(zip(rates, lengths, strict=True)) <= cost:
            self._num_quiet_steps = _LOOK_EVERY
            return {}

        wanted = {}
        for sequence, length in zip(looked_at, lengths, strict=True):
            length = min(length, sequence.num_useful_drafts)
            if length > 0:
                wanted[sequence.request] = (sequence, length)
        return wanted

    def _is_hopeful(self, sequence: Sequence) -> bool:
        """Whether it could pay for this sequence; if not, it is left alone for a while."""
        if self._limits.is_obliging or self._rate(sequence) > self._verifying:
            return True

        sequence.next_look = len(sequence.ids) + _LOOK_EVERY
        return False

    def _price_of(self, num_drafts: int) -> float:
        """Tokens that a step would give in the time that it takes longer with so many drafts."""
        return self._threshold + self._verifying * num_drafts

    def _rate(self, sequence: Sequence) -> float:
        acceptance, num_known = sequence.acceptance, len(sequence.ids)
        if not acceptance.num_seen:
            return self._first_rate
        if num_known > sequence.num_judged_tokens:
            acceptance.forget(num_known - sequence.num_judged_tokens, self._first_rate, _FORGET_PER_TOKEN)
            sequence.num_judged_tokens = num_known
        return acceptance.rate

    @property
    def _first_rate(self) -> float:
        return max(self._all.rate, _LEAST_FIRST_RATE)

    def _tell(self, sequence: Sequence) -> None:
        """Let the drafter know the sequence, or what came since it was told last: not with every token, since in a
        batch where nothing is guessed nobody needs it."""
        request = sequence.request
        num_told = self._num_told.get(request)
        if num_told is None:
            self._drafter.open(sequence.order, sequence.ids)
        elif num_told < len(sequence.ids):
            self._drafter.extend(request, sequence.ids[num_told:])
        self._num_told[request] = len(sequence.ids)

    def _guess_time(self, num_sequences: int) -> float:
        """Seconds to guess one token ahead for so many, at least: from what was measured for the number nearest to
        it. More of them take no less, and fewer no less than their share."""
        size = num_sequences.bit_length()
        nearest = min(self._guess_s, key=lambda known: abs(known - size), default=size)
        return self._guess_s.get(nearest, 0.0) * 2.0 ** min(size - nearest, 0)

    def _time(self, num_sequences: int, seconds: float) -> None:
        size = num_sequences.bit_length()
        known = self._guess_s.get(size)
        self._guess_s[size] = seconds if known is None else known + _FOLLOW * (seconds - known)
