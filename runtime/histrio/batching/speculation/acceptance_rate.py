"""How often the drafts of one sequence, or of all, came true lately."""

from __future__ import annotations

__all__ = ["FIRST_RATE", "AcceptanceRate"]

FIRST_RATE = 0.8
"""Where nothing was tried yet. It is high, so that also a drafter is tried whose guesses cost most of a step; a few
wrong ones are enough to doubt it."""


class AcceptanceRate:
    """An average of verified drafts that follows the newest ones, and forgets towards what is usual."""

    __slots__ = ("num_seen", "rate")

    def __init__(self) -> None:
        self.rate = FIRST_RATE
        self.num_seen = 0
        """Drafted tokens that were verified, up to the first wrong one of each draft."""

    def observe(self, num_drafted: int, num_accepted: int, follow: float) -> None:
        """So many were drafted, and the first so many of them came true; the newest has the weight `follow`.

        The first ones count for more: what the rate began with was one guess.
        """
        weight = max(follow, 1 / (self.num_seen + 2))
        # As if each that came true had moved the rate by its weight towards 1.
        self.rate = 1 - (1 - self.rate) * (1 - weight) ** num_accepted
        self.num_seen += num_accepted
        if num_accepted < num_drafted:
            self.rate -= max(follow, 1 / (self.num_seen + 2)) * self.rate
            self.num_seen += 1

    def forget(self, num_tokens: int, home: float, share: float) -> None:
        """So many tokens came without drafts: with each the rate goes this share of the way to `home`."""
        self.rate = home + (self.rate - home) * (1 - share) ** num_tokens
