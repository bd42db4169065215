"""Allowed tokens: nothing else can be generated."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import Array, ArrayNamespace
from histrio.contracts.sampler import LogitsRows, Opening, TokenId
from histrio_samplers.edits import padded

__all__ = ["AllowedTokenIds", "AllowedTokenIdsParams"]


class AllowedTokenIdsParams(msgspec.Struct, frozen=True):
    """The field `allowed_token_ids`; null allows all."""

    allowed_token_ids: Annotated[
        Annotated[list[TokenId], msgspec.Meta(min_length=1, max_length=2**18)] | None,
        msgspec.Meta(description="a list of 1 to 262144 token ids, or null"),
    ] = None


class AllowedTokenIds:
    """Removes every token that the client has not named."""

    name: ClassVar[str] = "allowed_token_ids"
    order: ClassVar[int] = 10
    params: ClassVar[type[msgspec.Struct]] = AllowedTokenIdsParams

    def __init__(self, max_slots: int) -> None:
        self._allowed: dict[int, npt.NDArray[np.int64]] = {}

    def open(self, slot: int, params: msgspec.Struct, opening: Opening) -> bool:
        """Remember the slot's tokens."""
        assert isinstance(params, AllowedTokenIdsParams)
        self._allowed.pop(slot, None)
        if params.allowed_token_ids is None:
            return False

        self._allowed[slot] = np.unique(np.array(params.allowed_token_ids, np.int64))
        return True

    def apply(self, xp: ArrayNamespace, logits: Array, rows: LogitsRows) -> Array:
        """Keep the logits of the allowed tokens, remove all others of the row."""
        allowed = {row: self._allowed[slot] for row, slot in enumerate(rows.slots.tolist()) if slot in self._allowed}
        tokens, _ = padded({row: (ids, ids) for row, ids in allowed.items()}, logits.shape, neutral=0)
        is_limited, is_empty = np.zeros((len(rows), 1), np.bool_), np.zeros((len(rows), 1), np.bool_)
        is_limited[list(allowed)] = True
        is_empty[[row for row, ids in allowed.items() if ids[0] >= logits.shape[-1]]] = True
        indices = xp.asarray(tokens)
        kept = xp.where(xp.asarray(is_empty), -np.inf, xp.take_along(logits, indices))
        return xp.put_along(xp.where(xp.asarray(is_limited), -np.inf, logits), indices, kept)
