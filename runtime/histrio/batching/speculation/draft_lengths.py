"""How many drafted tokens a step should verify.

A step of T seconds gives N tokens, so a second is worth N / T tokens. The n-th drafted token of a sequence is accepted
with probability a^n, where a is the recent share of accepted drafts. To verify it costs b seconds more. To draft one
token further costs d seconds, for one sequence about as much as for all that go so far. So the n-th token pays where

    a^n > b N / T        for each sequence that goes so far, and
    sum of a^n > (number of these sequences * b + d) N / T

which gives long drafts in a step of one sequence, short ones in a busy step, and none where every token costs its
full price.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from histrio.config.settings import SpeculationSettings

__all__ = ["tokens_gained", "worthwhile_lengths"]

_HIGHEST_RATE = 0.98


def worthwhile_lengths(
    rates: Sequence[float], settings: SpeculationSettings, verifying: float, drafting: float
) -> list[int]:
    """Tokens to draft for each of these sequences, whose drafts are accepted at `rates`.

    `verifying` is the cost of verifying one token, `drafting` that of drafting one token further, both in tokens:
    b N / T and d N / T.
    """
    if not settings.adaptive:
        return [settings.speculation_length] * len(rates)

    lengths = [settings.min_speculation] * len(rates)
    powers = [min(rate, _HIGHEST_RATE) for rate in rates]
    going = list(range(len(rates)))
    for length in range(1, settings.max_speculation + 1):
        going = [index for index in going if powers[index] > verifying]
        if not going or sum(powers[index] for index in going) <= len(going) * verifying + drafting:
            break
        for index in going:
            lengths[index] = max(length, settings.min_speculation)
            powers[index] *= min(rates[index], _HIGHEST_RATE)
    return lengths


def tokens_gained(drafts: Iterable[tuple[float, int]]) -> float:
    """How many drafted tokens are expected to be accepted; each draft is given by its rate and its length."""
    gained = 0.0
    for rate, length in drafts:
        rate = min(rate, _HIGHEST_RATE)
        gained += rate * (1 - rate**length) / (1 - rate)
    return gained
