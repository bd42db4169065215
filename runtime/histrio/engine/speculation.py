"""How many drafted tokens are worth their place in a step.

A step of T seconds gives N tokens, so a second is worth N / T tokens. The n-th drafted token of a sequence comes true
with probability a^n, where a is how often its drafts came true lately. To verify it costs b seconds more, and to guess
it d seconds, which all N sequences share. It pays as long as

    a^n > (b * N + d) / T

which is long in a step of one sequence, short in a busy one, and not at all where every token costs its full price.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec

from histrio.drafting import Drafter
from histrio.engine.cost import CostModel

if TYPE_CHECKING:
    from histrio.engine.sequence import Sequence

__all__ = ["Acceptance", "Speculation", "SpeculationLimits", "worthwhile_length"]

_FOLLOW = 0.15
"""Weight of the newest verified draft in the rate."""
_FORGET_PER_TOKEN = 0.003
"""How far the rate goes back to the first guess with every token that came without drafts: so it is tried again."""
_FIRST_RATE = 0.6
_HIGHEST_RATE = 0.98


class SpeculationLimits(msgspec.Struct, frozen=True):
    """Bounds of drafts; travels to the process that makes them."""

    length: int = 4
    """Tokens drafted where the length is not adaptive."""
    least: int = 0
    most: int = 8
    is_adaptive: bool = True


class Acceptance:
    """How often the drafts of one sequence came true lately."""

    __slots__ = ("rate",)

    def __init__(self) -> None:
        self.rate = _FIRST_RATE

    def observe(self, num_drafted: int, num_accepted: int) -> None:
        """So many were drafted, and the first so many came true."""
        if num_drafted == 0:
            self.rate += _FORGET_PER_TOKEN * (_FIRST_RATE - self.rate)
            return

        for index in range(min(num_accepted + 1, num_drafted)):
            self.rate += _FOLLOW * ((index < num_accepted) - self.rate)


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
        self._draft_s = 0.0
        """Seconds to guess one token ahead for all sequences of a step."""
        self._price = 0.0
        """Tokens that the time for one more drafted token of each sequence would give otherwise, per sequence."""
        self._open: set[int] = set()

    def set_price(self, num_decoding: int, context: int) -> None:
        """So many sequences decode now, with `context` tokens together: they share what a step costs."""
        seconds = self._cost.predict(num_decoding, context)
        verifying = self._cost.seconds_of_token(context // max(num_decoding, 1)) * num_decoding
        self._price = (verifying + self._draft_s) / max(seconds, 1e-9)

    def propose(self, sequences: Iterable[Sequence]) -> None:
        """Fill in `drafts` of these sequences, which have one token to compute each."""
        wanted = {}
        by_request = {}
        for sequence in sequences:
            sequence.drafts, sequence.chances = [], []
            most = sequence.order.max_total_tokens - len(sequence.ids) - 1
            length = min(worthwhile_length(sequence.acceptance.rate, self._limits, self._price), most)
            if length > 0:
                wanted[sequence.request] = length
                by_request[sequence.request] = sequence
                self._enter(sequence)
        if not wanted:
            return

        began = self._clock()
        found = self._drafter.propose(wanted)
        self._time((self._clock() - began) / max(wanted.values()))
        for request, draft in found.items():
            sequence = by_request[request]
            sequence.drafts, sequence.chances = draft.ids, draft.chances

    def pays(self, sequence: Sequence) -> bool:
        """Whether tokens would be guessed for the sequence, as things stand."""
        return worthwhile_length(sequence.acceptance.rate, self._limits, self._price) > 0

    def judge(self, sequence: Sequence, num_gained: int) -> tuple[int, int]:
        """A row of the sequence was answered: learn from its drafts. How many there were, and how many came true."""
        num_drafted = len(sequence.drafts)
        num_accepted = min(num_gained - 1, num_drafted)
        sequence.acceptance.observe(num_drafted, num_accepted)
        self.num_drafted_tokens += num_drafted
        self.num_accepted_tokens += num_accepted
        sequence.drafts, sequence.chances = [], []
        return num_drafted, num_accepted

    def extend(self, request: int, ids: list[int]) -> None:
        """These tokens came."""
        if request in self._open:
            self._drafter.extend(request, ids)

    def close(self, request: int) -> None:
        """The sequence ended, or lost its place."""
        if request in self._open:
            self._open.remove(request)
            self._drafter.close(request)

    def close_all(self) -> None:
        """All sequences are gone: the epoch is over."""
        for request in list(self._open):
            self.close(request)

    def _enter(self, sequence: Sequence) -> None:
        if sequence.request not in self._open:
            self._open.add(sequence.request)
            self._drafter.open(sequence.order, sequence.ids)

    def _time(self, seconds: float) -> None:
        self._draft_s += _FOLLOW * (seconds - self._draft_s) if self._draft_s else seconds


def worthwhile_length(rate: float, limits: SpeculationLimits, price: float) -> int:
    """Tokens to draft for a sequence whose drafts come true at `rate`, where one costs `price` tokens: b N / T."""
    if not limits.is_adaptive:
        return limits.length
    if price <= 0:
        return limits.most
    if price >= 1:
        return limits.least

    length = math.floor(math.log(price) / math.log(min(max(rate, 1e-3), _HIGHEST_RATE)))
    return max(limits.least, min(length, limits.most))
