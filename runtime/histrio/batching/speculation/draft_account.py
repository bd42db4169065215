"""What drafts have earned and what they have cost: a bound for what may be lost by them, whatever it comes from.

Prices and rates are estimates, and some costs have no estimate at all, such as what a draft model spends on a prompt
that then ends at once. So everything is entered here as it comes, counted in steps without drafts: a token that came
true saves a part of one, guesses take time, and a step with drafts takes longer than one without. While the balance is
above zero, drafts are made where they are expected to pay. Below it none are, until the allowance has made up for it:
a small share of all steps, which is all that can be lost for long.
"""

from __future__ import annotations

__all__ = ["ALLOWANCE", "DraftAccount"]

ALLOWANCE = 0.0025
"""Share of the time that may be spent on drafts that don't pay."""
MOST_SAVED = 32.0
"""Steps that can be in the account: so much is lost at most when drafts cease to pay. Less would close it by chance:
eight wrong guesses of a draft model may take three steps."""
_FIRST = 8.0
"""Steps that are in it before anything is known."""
_MOST_AT_ONCE = 4.0
"""What took longer still was held up by something else, or is done once, like the first step of a draft model."""


class DraftAccount:
    """The balance, in steps without drafts."""

    def __init__(self) -> None:
        self.balance = _FIRST

    @property
    def is_open(self) -> bool:
        """Whether drafts may be made."""
        return self.balance > 0

    def pay(self, num_steps: float) -> None:
        """The time of so many steps was spent on guesses."""
        self.balance -= min(num_steps, _MOST_AT_ONCE)

    def enter_plain(self) -> None:
        """A step without drafts."""
        self._earn(ALLOWANCE)

    def enter_drafted(self, saved: float, longer: float) -> None:
        """A step whose drafts have `saved` so many steps; it took `longer` by that share of a step."""
        self._earn(saved - min(max(longer, -_MOST_AT_ONCE), _MOST_AT_ONCE))

    def _earn(self, num_steps: float) -> None:
        self.balance = min(self.balance + num_steps, MOST_SAVED)
