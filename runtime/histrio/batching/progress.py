"""How far the tokens of one sequence have come, in tokens: computed <= planned <= issued."""

from __future__ import annotations

__all__ = ["Progress"]


class Progress:
    """Read anywhere, written by its own methods only; each of them asserts the order of the three numbers."""

    __slots__ = ("computed", "issued", "num_in_flight", "planned")

    def __init__(self) -> None:
        self.computed = 0
        """The steps of so many tokens were answered: their keys and values are in the blocks."""
        self.planned = 0
        """Tokens computed or in flight, without drafts; the next row begins here."""
        self.issued = 0
        """Where the stages stand: beyond `planned` after drafts that were rejected."""
        self.num_in_flight = 0
        """Steps with a row of the sequence that were sent and not yet answered."""

    def begin_at(self, num_tokens: int) -> None:
        """The blocks of the sequence hold its first `num_tokens` tokens; nothing else is computed."""
        self.computed = self.planned = self.issued = num_tokens

    def plan(self, end: int, num_drafts: int = 0) -> bool:
        """A row is planned that ends at `end` tokens, the last `num_drafts` of them drafts.

        True if it begins before the end of the row issued last, so that the stages have to rewind.
        """
        is_rewind = self.planned < self.issued
        self.planned, self.issued = end - num_drafts, end
        assert self.computed <= self.planned, "a row was planned behind tokens that are computed"
        return is_rewind

    def send(self) -> None:
        """The row planned last goes to the stages."""
        self.num_in_flight += 1

    def answer(self, end: int, *, is_verified: bool) -> None:
        """A row was answered: `end` tokens are computed. `is_verified`: it had drafts, and those that were rejected are
        to be planned again."""
        self.num_in_flight -= 1
        self.computed = end
        if is_verified:
            self.planned = end
        assert self.num_in_flight >= 0, "a row was answered that was never sent"
        assert end <= self.planned <= self.issued, "more tokens were answered than planned"
