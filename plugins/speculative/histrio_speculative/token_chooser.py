"""From the draft model's logits to a draft: the token that the target is most likely to draw.

A greedy request gets the most likely token. A seeded one is drawn for with the very number that the target will use for
this position: where the two models agree, it falls on the same token. A request whose client chose no seed is drawn for
with other numbers, and the distribution goes along: then the target can accept by the ratio of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import Array, ArrayNamespace
from histrio.contracts.sampler import DraftProbs, DraftSampler
from histrio.messages import Ask, Generate, Open

__all__ = ["MOST_DRAFT_PROBS", "DraftToken", "TokenChooser"]

MOST_DRAFT_PROBS = 32
"""Most tokens of a distribution that is sent along."""
_WARMEST = 1.5
"""Temperature up to which the most likely tokens are nearly all that can come. Beyond, the target's number is used."""
_SHARPENING = 0.8
"""Of the request's temperature. On the demo models this is accepted as often as the temperature itself or more often:
a small model is less sure than it ought to be. See docs/speculation.md for the numbers."""
_SHAPING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "top_n_sigma")
"""Fields that are applied to the draft model too. Penalties are not: they follow every token, and drafted ones would
have to be forgotten again."""

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DraftToken:
    """One token, and the distribution from which it was drawn; None for the most likely token."""

    token: int
    draft_probs: DraftProbs | None = None


@dataclass(frozen=True, slots=True)
class _Shape:
    """Temperature and truncations of a distribution whose draws the target does not repeat."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float


class TokenChooser:
    """Chooses drafted tokens for the sequences in the slots of the draft model."""

    def __init__(self, chain: DraftSampler, xp: ArrayNamespace, max_slots: int) -> None:
        self._chain = chain
        self._xp = xp
        self._shapes: list[_Shape | None] = [None] * max_slots
        """Shape of the distribution by slot; None where the target's number is used."""
        self._random = np.random.default_rng()

    def open(self, slot: int, command: Generate) -> None:
        """A sequence takes the slot."""
        sampling = {name: value for name, value in command.ask.sampling.items() if name in _SHAPING}
        is_free = not command.ask.is_seeded and 0 < sampling.get("temperature", 1.0) <= _WARMEST
        self._shapes[slot] = _shape(sampling) if is_free else None
        ask = Ask(sampling, seed=command.ask.seed)
        self._chain.open(Open(slot, command.ids, command.num_prompt_tokens, ask, command.seed, command.choice))

    def choose(self, logits: Array, slots: Sequence[int], positions: Sequence[int]) -> list[DraftToken]:
        """One for each row of `logits` [rows, vocab]; `positions` are those of the tokens to choose."""
        is_free = np.array([self._shapes[slot] is not None for slot in slots])
        if not is_free.any():
            return self._repeat(logits, slots, positions)

        chosen: list[DraftToken] = [DraftToken(-1)] * len(slots)
        for is_chosen, find in ((~is_free, self._repeat), (is_free, self._draw)):
            rows = np.flatnonzero(is_chosen)
            if len(rows) == 0:
                continue
            part = logits if len(rows) == len(slots) else self._xp.take_rows(logits, rows)
            indices = rows.tolist()
            found = find(part, [slots[row] for row in indices], [positions[row] for row in indices])
            for row, token in zip(indices, found, strict=True):
                chosen[row] = token
        return chosen

    def _repeat(self, logits: Array, slots: Sequence[int], positions: Sequence[int]) -> list[DraftToken]:
        """Draw with the target's number, as the target would from this distribution."""
        sampled = self._chain.sample(self._xp, logits, np.array(slots, np.intp), np.array(positions, np.int64))
        return [DraftToken(token) for token in sampled.ids]

    def _draw(self, logits: Array, slots: Sequence[int], _positions: Sequence[int]) -> list[DraftToken]:
        """Draw with numbers of our own, among the most likely tokens."""
        values, tokens = self._xp.topk(self._xp.float32(logits), min(MOST_DRAFT_PROBS, logits.shape[-1]))
        shapes = [shape for slot in slots if (shape := self._shapes[slot]) is not None]
        weights = _weights(self._xp.to_host(values).astype(np.float64), shapes)
        ends = weights.cumsum(axis=1)
        drawn = (ends < self._random.random(len(slots))[:, None] * ends[:, -1:]).sum(axis=1)
        weights /= ends[:, -1:]
        rows = zip(self._xp.to_host(tokens).tolist(), weights.tolist(), drawn.tolist(), strict=True)
        return [
            DraftToken(ids[at], [(i, w) for i, w in zip(ids, each, strict=True) if w > 0]) for ids, each, at in rows
        ]


def _shape(sampling: dict[str, Any]) -> _Shape:
    temperature = _SHARPENING * float(sampling.get("temperature", 1.0))
    top_k = int(sampling.get("top_k", 0))
    return _Shape(
        temperature,
        top_k if top_k > 0 else MOST_DRAFT_PROBS,
        float(sampling.get("top_p", 1.0)),
        float(sampling.get("min_p", 0.0)),
    )


def _weights(values: _Floats, shapes: Sequence[_Shape]) -> _Floats:
    """[rows, k] of logits in descending order, what each token's weight is after the row's temperature and truncations.

    The first of a row always keeps one.
    """
    temperatures, ks, ps, min_ps = (
        np.array(column, np.float64)[:, None]
        for column in zip(*((each.temperature, each.top_k, each.top_p, each.min_p) for each in shapes), strict=True)
    )
    weights = np.exp((values - values[:, :1]) / temperatures)
    weights[(np.arange(values.shape[1]) >= ks) | (weights < min_ps)] = 0
    before = weights.cumsum(axis=1) - weights
    weights[before >= ps * weights.sum(axis=1, keepdims=True)] = 0
    return weights
