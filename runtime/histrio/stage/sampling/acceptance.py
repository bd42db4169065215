"""Exact acceptance of drafts that were drawn: each is kept as often as it may be without changing the distribution.

A token x that was drawn from q is kept with probability min(1, p(x) / q(x)); else one is drawn from what p has more
than q, max(p - q, 0). Together that is a draw from p (Leviathan et al. 2023, "Fast Inference from Transformers via
Speculative Decoding"). p is what the row would be drawn from without any draft, after its grammar and all samplers.

The numbers come from streams of their own. So it stays exact even where a drafter has drawn with the numbers that the
row itself would be drawn with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import Array, ArrayNamespace
from histrio.contracts.philox import uniform
from histrio.contracts.sampler import LogitsRows, Slots
from histrio.stage.sampling.inverse_cdf import first_reaching

if TYPE_CHECKING:
    from histrio.contracts.sampler import DraftProbs

__all__ = ["Proposals", "accept_or_draw"]

Ints = npt.NDArray[Any]

_NO_DRAFT = -1


@dataclass(slots=True)
class Proposals:
    """What rows of a step verify: a draft each, and the distribution it was drawn from. All arrays are on the host."""

    drafted: Ints
    """[rows] the draft; -1 in a row that is simply drawn."""
    drafted_probs: npt.NDArray[np.float64]
    """[rows] its probability then."""
    ids: Ints
    """[rows, width] all tokens that could have been drafted; shorter rows repeat their last one."""
    draft_probs: npt.NDArray[np.float32]
    """[rows, width] the probability of each."""

    @classmethod
    def of_step(
        cls, slots: Slots, drafts: Mapping[int, Sequence[int]], draft_probs: Mapping[int, Sequence[DraftProbs]]
    ) -> Proposals:
        """The proposals of all rows; the rows of a sequence verify its drafts one after the other."""
        rows, drafted, drawn_from = _verified(slots, drafts, draft_probs)
        proposals = cls.of_none(len(slots), max(map(len, drawn_from), default=1))
        if not rows:
            return proposals

        pairs = np.fromiter(chain.from_iterable(chain.from_iterable(drawn_from)), np.float64).reshape(-1, 2)
        lengths = np.array([len(each) for each in drawn_from])
        columns = np.minimum(np.arange(proposals.ids.shape[1]), lengths[:, None] - 1)
        of_rows = pairs[(lengths.cumsum() - lengths)[:, None] + columns]
        is_drafted = of_rows[:, :, 0] == np.array(drafted)[:, None]
        # A draft with probability 0 cannot be verified by the ratio: its row is drawn without it.
        can_be = np.where(is_drafted, of_rows[:, :, 1], 0).max(axis=1)
        at = np.array(rows)[can_be > 0]
        proposals.drafted[at] = np.array(drafted)[can_be > 0]
        proposals.drafted_probs[at] = can_be[can_be > 0]
        proposals.ids[at], proposals.draft_probs[at] = np.moveaxis(of_rows[can_be > 0], 2, 0)
        return proposals

    @classmethod
    def of_none(cls, num_rows: int, width: int) -> Proposals:
        """Rows that are simply drawn."""
        return cls(
            np.full(num_rows, _NO_DRAFT, np.int64),
            np.zeros(num_rows),
            np.zeros((num_rows, width), np.int64),
            np.zeros((num_rows, width), np.float32),
        )

    def take(self, rows: Ints | slice) -> Proposals:
        """Some of these rows."""
        return Proposals(self.drafted[rows], self.drafted_probs[rows], self.ids[rows], self.draft_probs[rows])

    def within(self, vocab_size: int) -> tuple[Ints, npt.NDArray[np.float32]]:
        """Replace candidate ids outside the target's vocabulary by the drafted id, so that indexing stays in range
        without adding a new candidate. Returns ids and their probabilities, both [rows, width]."""
        is_known = self.ids < vocab_size
        drafts = self.drafted[:, None], self.drafted_probs[:, None].astype(np.float32)
        return np.where(is_known, self.ids, drafts[0]), np.where(is_known, self.draft_probs, drafts[1])

    @property
    def is_empty(self) -> bool:
        """Whether all rows are simply drawn."""
        return bool((self.drafted == _NO_DRAFT).all())


def accept_or_draw(
    xp: ArrayNamespace, logits: Array, rows: LogitsRows, proposals: Proposals
) -> tuple[Ints, npt.NDArray[np.float32]]:
    """As `draw`, with float32 `logits` [rows, vocab] in which every sampler had its say: the drafts or other tokens.

    A token differs from the row's draft exactly if that was refused. Rows without a draft are drawn as ever.
    """
    weights = xp.softmax(logits)
    has_draft = proposals.drafted != _NO_DRAFT
    drafted = np.where(has_draft, proposals.drafted, 0)
    likelihoods = _of_tokens(xp, weights, drafted)
    is_kept = has_draft & (rows.uniform("acceptance") * proposals.drafted_probs < likelihoods)

    ids, draft_probs = (xp.asarray(each) for each in proposals.within(logits.shape[-1]))
    of_target = xp.take_along(weights, ids)
    rest = of_target - draft_probs
    weights = xp.put_along(weights, ids, xp.where(rest > 0, rest, 0.0))
    own = uniform(rows.seeds, rows.choices, rows.positions)
    found, totals = first_reaching(xp, weights, np.where(has_draft, rows.uniform("refusal"), own))
    # Nothing remains of a row without a distribution, and, by rounding only, where q is p.
    drawn = np.where(totals > 0, found, np.where(likelihoods > 0, drafted, -1))

    chosen = np.where(is_kept, drafted, drawn)
    return chosen, _of_tokens(xp, xp.put_along(weights, ids, of_target), np.maximum(chosen, 0))


def _verified(
    slots: Slots, drafts: Mapping[int, Sequence[int]], draft_probs: Mapping[int, Sequence[DraftProbs]]
) -> tuple[list[int], list[int], list[DraftProbs]]:
    """The rows with a draft that was drawn, the draft, and what it was drawn from."""
    verifying: list[int] = []
    drafted: list[int] = []
    drawn_from: list[DraftProbs] = []
    first = 0
    for slot, rows in groupby(slots.tolist()):
        for index, (token, known) in enumerate(zip(drafts.get(slot, ()), draft_probs.get(slot, ()), strict=False)):
            if known:
                verifying.append(first + index)
                drafted.append(token)
                drawn_from.append(known)
        first += len(list(rows))
    return verifying, drafted, drawn_from


def _of_tokens(xp: ArrayNamespace, weights: Array, ids: Ints) -> npt.NDArray[np.float32]:
    """[rows] the weight of one token of each row."""
    return xp.to_host(xp.take_along(weights, xp.asarray(ids[:, None])))[:, 0]
