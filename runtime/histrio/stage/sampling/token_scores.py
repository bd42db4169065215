"""What requests ask to be told of each token beside its id, as far as the model's own logits tell it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import Array, ArrayNamespace
from histrio.contracts.sampler import Slots
from histrio.messages import Ask, TokenLogprobs
from histrio.stage.sampling.logprobs import token_logprobs

__all__ = ["TokenScorer"]


class TokenScorer:
    """Keeps what the sequence of each slot asks for."""

    def __init__(self, max_slots: int) -> None:
        self.is_asked = np.zeros(max_slots, np.bool_)
        """Slots whose tokens are scored."""
        self._num_top = np.zeros(max_slots, np.int64)
        self._named: dict[int, list[int]] = {}
        """Slot → ids of tokens that are scored in place of the most likely ones."""

    def open(self, slot: int, ask: Ask) -> None:
        """A sequence takes a slot."""
        self.is_asked[slot] = ask.num_logprobs is not None
        self._num_top[slot] = 0 if ask.logprob_token_ids else ask.num_logprobs or 0
        self._named.pop(slot, None)
        if ask.logprob_token_ids:
            self._named[slot] = ask.logprob_token_ids

    def open_bare(self, slot: int) -> None:
        """A sequence takes a slot that asks for nothing."""
        self.is_asked[slot] = False

    def score(
        self, xp: ArrayNamespace, logits: Array, slots: Slots, rows: npt.NDArray[np.intp], ids: npt.NDArray[np.int64]
    ) -> dict[int, TokenLogprobs]:
        """Index into `ids` → what is told of it, where its slot asks for it. `rows` are their rows of `logits`, which
        are not modified; a negative id is no token."""
        asking = np.flatnonzero(self.is_asked[slots] & (ids >= 0))
        if not len(asking):
            return {}

        num_top = self._num_top[slots[asking]].tolist()
        named = [self._named.get(slot, ()) for slot in slots[asking].tolist()] if self._named else ()
        found = token_logprobs(xp, xp.take_rows(logits, rows[asking]), ids[asking].tolist(), num_top, named)
        return dict(zip(asking.tolist(), found, strict=True))
