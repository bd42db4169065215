"""Mirostat 2: keeps the surprise of the text near a target by adjusting, token by token, how surprising one may be.

Basu et al. 2020, "Mirostat: A Neural Text Decoding Algorithm that Directly Controls Perplexity". The limit μ (in bits)
follows the tokens that were drawn and what was left of the distribution then. Tokens alone do not tell it, so it is a
state that travels.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import Array, ArrayNamespace
from histrio.contracts.sampler import LogitsRows, Opening, Slots

__all__ = ["Mirostat", "MirostatParams"]


class MirostatParams(msgspec.Struct, frozen=True):
    """`mirostat` 2 turns it on; `mirostat_tau` is the target in bits, `mirostat_eta` how fast μ follows."""

    mirostat: Literal[0, 2] = 0
    mirostat_tau: Annotated[float, msgspec.Meta(ge=0, le=100)] = 5.0
    mirostat_eta: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1


class Mirostat:
    """Removes tokens whose surprise, -log2 of their probability, is above μ; the most likely one always stays."""

    name: ClassVar[str] = "mirostat"
    order: ClassVar[int] = 290
    params: ClassVar[type[msgspec.Struct]] = MirostatParams

    def __init__(self, max_slots: int) -> None:
        self._params: dict[int, MirostatParams] = {}
        self._mus = np.full(max_slots, np.inf)

    def open(self, slot: int, params: msgspec.Struct, opening: Opening) -> bool:
        """Begin with μ = 2τ, or go on with the μ that was reached."""
        assert isinstance(params, MirostatParams)
        self._mus[slot] = np.inf
        if params.mirostat == 0:
            return False

        self._params[slot] = params
        self._mus[slot] = 2 * params.mirostat_tau if opening.state is None else opening.state
        return True

    def observe(self, slots: Slots, ids: npt.NDArray[Any], probabilities: npt.NDArray[np.float32]) -> None:
        """Move each μ by how much more or less surprising the token was than it should be."""
        for slot, probability in zip(slots.tolist(), probabilities.tolist(), strict=True):
            self._mus[slot] = self._next_mu(slot, self._mus[slot], probability)

    def state(self, slot: int) -> Any:
        """μ."""
        return float(self._mus[slot])

    def apply(self, xp: ArrayNamespace, logits: Array, rows: LogitsRows) -> Array:
        """Set what is too surprising to -inf. A row behind drafts has the μ that they would lead to."""
        if not rows.drafts:
            return _truncate(xp, logits, self._mus[rows.slots])

        mus = self._mus[rows.slots]
        depths = np.array([len(drafts) for drafts in rows.drafts])
        for depth in range(int(depths.max()) + 1):
            at = np.flatnonzero(depths == depth)
            part = _truncate(xp, xp.take_rows(logits, at), mus[at])
            logits = xp.put_rows(logits, at, part)
            is_followed = np.isin(at + 1, np.flatnonzero(depths == depth + 1))
            if is_followed.any():
                followed = at[is_followed]
                drafted = np.array([rows.drafts[row + 1][-1] for row in followed], np.int64)
                weights = xp.take_rows(xp.softmax(part), np.flatnonzero(is_followed))
                probabilities = xp.to_host(xp.take_along(weights, xp.asarray(drafted[:, None])))[:, 0]
                for row, probability in zip(followed.tolist(), probabilities.tolist(), strict=True):
                    mus[row + 1] = self._next_mu(int(rows.slots[row]), mus[row], probability)
        return logits

    def _next_mu(self, slot: int, mu: float, probability: float) -> float:
        """μ after a token of this probability; a draft that cannot be drawn changes nothing, for it is not accepted."""
        params = self._params.get(slot)
        if params is None or probability == 0:
            return mu
        return mu - params.mirostat_eta * (-math.log2(probability) - params.mirostat_tau)


def _truncate(xp: ArrayNamespace, logits: Array, mus: npt.NDArray[np.float64]) -> Array:
    """Keep what is at most as surprising as the row's limit in bits; everything where that is infinite."""
    logprobs = xp.log_softmax(logits)
    limits = xp.asarray((-mus * math.log(2)).astype(np.float32)[:, None])
    is_kept = (logprobs >= limits) | (logits >= xp.max(logits))
    return xp.where(is_kept, logits, -np.inf)
