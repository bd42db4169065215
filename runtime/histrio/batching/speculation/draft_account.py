"""The account decides whether anything is drafted, by what drafts gave and cost, whatever causes it.

It is kept in steps without drafts: each accepted token saves a part of a step, and a step for which tokens were drafted
takes longer than one without, with the drafting before it and the time that no stage computes (`plain_steps.py`). While
the balance is above zero, tokens are drafted. Below zero none are, until the allowance has made up for it: a small
share of all steps, which bounds the loss in the long run.
"""

from __future__ import annotations

__all__ = ["ALLOWANCE", "MOST_SAVED", "DraftAccount"]

ALLOWANCE = 0.0025
"""Share of the time that may be spent on drafts that don't pay."""
MOST_SAVED = 32.0
"""Largest balance, in steps: the most that is lost when drafts cease to pay. A smaller one would reach zero by chance:
eight rejected drafts of a draft model may take three steps."""
_MOST_AT_ONCE = 4.0
"""Most steps that one entry costs: a longer time has another cause, or comes once, like the first step of a draft
model. So much can be spent at first, too."""


class DraftAccount:
    """The balance, in steps without drafts."""

    def __init__(self) -> None:
        self.balance = _MOST_AT_ONCE

    @property
    def is_open(self) -> bool:
        """Whether tokens may be drafted."""
        return self.balance > 0

    def enter_plain(self) -> None:
        """Enter a step without drafts."""
        self._earn(ALLOWANCE)

    def enter_drafted(self, saved: float, longer: float) -> None:
        """Enter a step with drafts: they saved `saved` steps, and it took `longer` by that share of a step."""
        self._earn(saved - min(longer, _MOST_AT_ONCE))

    def _earn(self, num_steps: float) -> None:
        self.balance = min(self.balance + num_steps, MOST_SAVED)
