"""What speculation remembers of one sequence: the drafts of its next row, and how often its drafts were accepted."""

from __future__ import annotations

from dataclasses import dataclass, field

from histrio.batching.speculation.acceptance_rate import AcceptanceRate
from histrio.contracts.drafter import Draft
from histrio.contracts.sampler import DraftProbs

__all__ = ["Drafted"]


@dataclass(slots=True)
class Drafted:
    """Belongs to `Speculation`; rows read the drafts and cut them where there is no room."""

    ids: list[int] = field(default_factory=list)
    """Drafted tokens of the row that is planned or in flight."""
    draft_probs: list[DraftProbs] = field(default_factory=list)
    """The distributions that `ids` were drawn from; empty where the drafter gave none."""
    acceptance: AcceptanceRate = field(default_factory=AcceptanceRate)
    num_judged_tokens: int = 0
    """Length of the sequence when `acceptance` was last updated; the decay for later tokens is applied on the next
    read."""
    next_look: int = 0
    """Do not consider drafting for the sequence before it has this many tokens."""

    def put(self, draft: Draft) -> None:
        """The next row verifies this draft."""
        self.ids, self.draft_probs = draft.ids, draft.draft_probs

    def cut(self, most: int) -> None:
        """The next row has room for `most` drafted tokens."""
        if len(self.ids) > most:
            del self.ids[most:]

    def drop(self) -> None:
        """No draft waits for a row any more."""
        if self.ids:
            self.ids, self.draft_probs = [], []
