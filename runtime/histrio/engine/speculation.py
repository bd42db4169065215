"""How many drafted tokens are worth their place in a step.

A step of T seconds gives N tokens, so a second is worth N / T tokens. The n-th drafted token of a sequence comes true
with probability a^n, where a is how often its drafts came true lately. To verify it costs b seconds more, and to guess
it d seconds, which all N sequences share. It pays as long as

    a^n > (b * N + d) / T

which is long in a step of one sequence, short in a busy one, and not at all where every token costs its full price.

A step with drafts also costs a share f more, however few there are, because its rows are no longer alike. So all drafts
of a step together have to give more than f N tokens beyond what they cost; otherwise it goes without.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

from histrio.drafting import Draft, Drafter
from histrio.engine.acceptance_rate import FIRST_RATE, AcceptanceRate
from histrio.engine.cost import CostModel
from histrio.errors import BackendError

if TYPE_CHECKING:
    from histrio.engine.sequence import Sequence

__all__ = ["Speculation", "SpeculationLimits", "worthwhile_length"]

_FOLLOW = 0.15
"""Weight of the newest verified draft in the rate."""
_FORGET_PER_TOKEN = 0.003
"""How far the rate goes back to the first guess with every token that came without drafts: so it is tried again."""
_FORGET_TIME = 0.003
"""The same for what a guess costs, with every step without one: what was measured once may not hold for ever."""
_FOLLOW_ALL = 0.03
_FORGET_ALL_PER_TOKEN = 0.0003
"""The same two for all sequences together: where one begins that nothing is known of."""
_LEAST_FIRST_RATE = 0.15
"""It is never taken for lower, so that what has become easy to guess is noticed."""
_HIGHEST_RATE = 0.98
_LOOK_EVERY = 8
"""Tokens of a sequence that doesn't pay until it is looked at again: a busy batch should not notice that it is."""

_log = logging.getLogger(__name__)


class SpeculationLimits(msgspec.Struct, frozen=True):
    """Bounds of drafts; travels to the process that makes them."""

    length: int = 4
    """Tokens drafted where the length is not adaptive."""
    least: int = 0
    most: int = 8
    is_adaptive: bool = True


class Speculation:
    """Asks the drafter for the sequences that are about to decode, and learns from what became of it."""

    def __init__(
        self, limits: SpeculationLimits, drafter: Drafter, cost: CostModel, clock: Callable[[], float]
    ) -> None:
        self.num_drafted_tokens = 0
        self.num_accepted_tokens = 0
        """Of those drafted, how many came true."""
        self._limits = limits
        self._drafter = drafter
        self._cost = cost
        self._clock = clock
        self._draft_s: dict[int, float] = {}
        """Seconds to guess one token ahead for all sequences of a step, by the bit length of their number."""
        self._price = 0.0
        """Tokens that the time for one more drafted token of each sequence would give otherwise, per sequence."""
        self._verifying = 0.0
        """The same without the time to guess it."""
        self._threshold = 0.0
        """Tokens that the time would give which drafts cost besides, whatever their number."""
        self._all = AcceptanceRate()
        """Of all sequences so far."""
        self._num_told: dict[int, int] = {}
        """Request → tokens of it that the drafter knows."""
        self._has_failed = False

    def set_price(self, num_decoding: int, context: int) -> None:
        """So many sequences decode now, with `context` tokens together: they share what a step costs."""
        seconds = max(self._cost.predict(num_decoding, context), 1e-9)
        verifying = self._cost.seconds_of_token(context // max(num_decoding, 1)) * num_decoding
        drafting = self._draft_s.get(num_decoding.bit_length(), 0.0)
        self._draft_s[num_decoding.bit_length()] = drafting * (1 - _FORGET_TIME)
        self._price = (verifying + drafting) / seconds
        self._verifying = verifying / seconds
        self._threshold = self._cost.surcharge(num_decoding) * num_decoding
        self._all.forget(num_decoding, FIRST_RATE, _FORGET_ALL_PER_TOKEN)

    def propose(self, sequences: Iterable[Sequence]) -> None:
        """Fill in `drafts` of these sequences, which have one token to compute each."""
        wanted: dict[int, int] = {}
        by_request: dict[int, Sequence] = {}
        for sequence in sequences:
            if sequence.drafts:
                sequence.drafts, sequence.chances = [], []
            if len(sequence.ids) >= sequence.next_look and (length := self._length(sequence)) > 0:
                wanted[sequence.request] = length
                by_request[sequence.request] = sequence
        if not wanted or not self._pay_together((by_request[request], length) for request, length in wanted.items()):
            return

        for request, sequence in by_request.items():
            self._tell(request, sequence)

        began = self._clock()
        found = self._ask(wanted)
        if len(found) == len(wanted):  # whoever was left out may have been prepared for the next time
            self._time(len(wanted), (self._clock() - began) / max(wanted.values()))
        if not self._pay_together((by_request[request], len(draft.ids)) for request, draft in found.items()):
            return

        for request, draft in found.items():
            sequence = by_request[request]
            sequence.drafts, sequence.chances = draft.ids, draft.chances

    def pays(self, sequence: Sequence) -> bool:
        """Whether tokens would be guessed for the sequence, as things stand."""
        return len(sequence.ids) >= sequence.next_look and self._length(sequence) > 0

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
        sequence.drafts, sequence.chances = [], []
        return num_drafted, num_accepted

    def close(self, sequence: Sequence) -> None:
        """The sequence ended, or lost its place."""
        if sequence.request in self._num_told:
            self._tell(sequence.request, sequence)
            del self._num_told[sequence.request]
            self._drafter.close(sequence.request)

    def close_all(self) -> None:
        """All sequences are gone: the epoch is over."""
        for request in self._num_told:
            self._drafter.close(request)
        self._num_told.clear()

    def _length(self, sequence: Sequence) -> int:
        """How many tokens to draft; a sequence for which it is none is left alone for a while."""
        num_known = len(sequence.ids)
        room = sequence.order.max_total_tokens - num_known - 1
        length = min(worthwhile_length(self._rate(sequence), self._limits, self._price), room)
        if length > 0 and not self._has_failed:
            return length

        sequence.next_look = num_known + _LOOK_EVERY
        return 0

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

    def _pay_together(self, lengths: Iterable[tuple[Sequence, int]]) -> bool:
        """Whether drafts of these lengths in one step give more tokens than it costs to have any at all."""
        if not self._limits.is_adaptive or self._limits.least > 0:
            return any(True for _ in lengths)

        known = [(min(self._rate(sequence), _HIGHEST_RATE), length) for sequence, length in lengths]
        gained = sum(rate * (1 - rate**length) / (1 - rate) for rate, length in known)
        return gained > self._threshold + self._verifying * sum(length for _rate, length in known)

    def _tell(self, request: int, sequence: Sequence) -> None:
        """Let the drafter know the sequence, or what came since it was told last: not with every token, since in a
        batch where nothing is guessed nobody needs it."""
        num_told = self._num_told.get(request)
        if num_told is None:
            self._drafter.open(sequence.order, sequence.ids)
        elif num_told < len(sequence.ids):
            self._drafter.extend(request, sequence.ids[num_told:])
        self._num_told[request] = len(sequence.ids)

    def _ask(self, wanted: Mapping[int, int]) -> dict[int, Draft]:
        """A drafter that cannot go on ends no request: nobody asks it again before the next epoch."""
        try:
            return self._drafter.propose(wanted)
        except BackendError:
            _log.exception("nothing is guessed ahead any more: the drafter failed")
            self._has_failed = True
            return {}

    def _time(self, num_sequences: int, seconds: float) -> None:
        size = num_sequences.bit_length()
        known = self._draft_s.get(size)
        self._draft_s[size] = seconds if not known else known + _FOLLOW * (seconds - known)


def worthwhile_length(rate: float, limits: SpeculationLimits, price: float) -> int:
    """Tokens to draft for a sequence whose drafts come true at `rate`, where one costs `price` tokens: b N / T."""
    if not limits.is_adaptive:
        return limits.length
    if price <= 0:
        return limits.most
    if rate <= price:
        return limits.least

    length = math.floor(math.log(price) / math.log(min(max(rate, 1e-3), _HIGHEST_RATE)))
    return max(limits.least, min(length, limits.most))
