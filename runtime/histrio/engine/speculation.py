"""How many drafted tokens are worth their place in a step.

A step of T seconds gives N tokens, so a second is worth N / T tokens. The n-th drafted token of a sequence comes true
with probability a^n, where a is how often its drafts came true lately, and costs b seconds more. It pays as long as

    a^n > b * N / T

which is long in a step of one sequence, short in a busy one, and not at all where every token costs its full price.
"""

from __future__ import annotations

import math

import msgspec

__all__ = ["Acceptance", "SpeculationLimits", "worthwhile_length"]

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
