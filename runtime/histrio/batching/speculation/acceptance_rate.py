"""The recent share of accepted drafts, of one sequence or of all."""

from __future__ import annotations

__all__ = ["FIRST_RATE", "AcceptanceRate"]

FIRST_RATE = 0.8
"""Rate before any draft was verified. It is high, so that a drafter is tried even if its drafts cost most of a step; a
few rejected drafts are enough to lower it."""


class AcceptanceRate:
    """A moving average over verified drafts, which decays towards a usual rate while there are none."""

    __slots__ = ("num_seen", "rate")

    def __init__(self) -> None:
        self.rate = FIRST_RATE
        self.num_seen = 0
        """Drafted tokens that were verified, up to the first rejected one of each draft."""

    def observe(self, num_drafted: int, num_accepted: int, follow: float) -> None:
        """Of `num_drafted` tokens the first `num_accepted` were accepted; the newest token has the weight `follow`.

        Early tokens weigh more, because the first rate counts as one token only.
        """
        weight = max(follow, 1 / (self.num_seen + 2))
        # As if each accepted token had moved the rate by its weight towards 1.
        self.rate = 1 - (1 - self.rate) * (1 - weight) ** num_accepted
        self.num_seen += num_accepted
        if num_accepted < num_drafted:
            self.rate -= max(follow, 1 / (self.num_seen + 2)) * self.rate
            self.num_seen += 1

    def forget(self, num_tokens: int, home: float, share: float) -> None:
        """The sequence gained `num_tokens` without drafts: each moves the rate by `share` of the way to `home`."""
        self.rate = home + (self.rate - home) * (1 - share) ** num_tokens
