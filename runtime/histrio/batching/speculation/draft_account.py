"""The account of what drafts gain and cost, which bounds their losses, whatever causes them.

Prices and rates are estimates, and some costs have no estimate at all, such as what a draft model spends on a prompt
whose answer ends at once. So every gain and cost is entered here, counted in steps without drafts: an accepted token
saves a part of a step, drafting takes time, and a step with drafts takes longer than one without. While the balance is
above zero, tokens are drafted where drafts are expected to pay. Below zero none are, until the allowance has made up
for it: a small share of all steps, which bounds the loss in the long run.
"""

from __future__ import annotations

__all__ = ["ALLOWANCE", "DraftAccount"]

ALLOWANCE = 0.0025
"""Share of the time that may be spent on drafts that don't pay."""
MOST_SAVED = 32.0
"""Largest balance, in steps: the most that is lost when drafts cease to pay. A smaller one would reach zero by chance:
eight rejected drafts of a draft model may take three steps."""
_FIRST = 8.0
"""The first balance, in steps."""
_MOST_AT_ONCE = 4.0
"""Most steps of one entry: a longer time has another cause, or comes once, like the first step of a draft model."""


class DraftAccount:
    """The balance, in steps without drafts."""

    def __init__(self) -> None:
        self.balance = _FIRST

    @property
    def is_open(self) -> bool:
        """Whether tokens may be drafted."""
        return self.balance > 0

    def pay(self, num_steps: float) -> None:
        """Enter the time of drafting, in steps."""
        self.balance -= min(num_steps, _MOST_AT_ONCE)

    def enter_plain(self) -> None:
        """Enter a step without drafts."""
        self._earn(ALLOWANCE)

    def enter_drafted(self, saved: float, longer: float) -> None:
        """Enter a step with drafts: they saved `saved` steps, and the step took `longer` by that share of a step."""
        self._earn(saved - min(max(longer, -_MOST_AT_ONCE), _MOST_AT_ONCE))

    def _earn(self, num_steps: float) -> None:
        self.balance = min(self.balance + num_steps, MOST_SAVED)
