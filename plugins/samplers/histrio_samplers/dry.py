"""DRY, "don't repeat yourself": tokens that would continue a repetition become less likely, the longer the more.

By p-e-w, text-generation-webui pull request 5677 (2024). For every earlier position in the sequence we know how many
tokens up to there equal those at the end. Appending a token moves these lengths one position on where it occurs, and
makes them 0 elsewhere, so a step costs one pass over the sequence and none over its pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import Array, ArrayNamespace
from histrio.contracts.sampler import LogitsRows, Opening, Slots, TokenId
from histrio_samplers.edits import add_to

__all__ = ["Dry", "DryParams"]

Ints = npt.NDArray[np.int64]

_MAX_LOG_PENALTY = 80.0
"""Longer repetitions are not penalised more: float32 ends near e^88."""


class DryParams(msgspec.Struct, frozen=True):
    """A `dry_multiplier` of 0 does nothing.

    Penalty = `dry_multiplier` × `dry_base` ^ (length of the repetition − `dry_allowed_length`). The last
    `dry_penalty_last_n` tokens are looked at, all with -1; tokens of `dry_sequence_breaker_ids` end every repetition
    and are never penalised.
    """

    dry_multiplier: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.0
    dry_base: Annotated[float, msgspec.Meta(ge=1, le=10)] = 1.75
    dry_allowed_length: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] = 2
    dry_penalty_last_n: Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)] = -1
    dry_sequence_breaker_ids: Annotated[
        list[TokenId], msgspec.Meta(max_length=2**16, description="a list of at most 65536 token ids")
    ] = []


class Dry:
    """Lowers the logits of tokens that followed the present end of the sequence before."""

    name: ClassVar[str] = "dry"
    order: ClassVar[int] = 70
    params: ClassVar[type[msgspec.Struct]] = DryParams

    def __init__(self, max_slots: int) -> None:
        self._repeats: dict[int, _Repeats] = {}

    def open(self, slot: int, params: msgspec.Struct, opening: Opening) -> bool:
        """Remember the slot's parameters and tokens."""
        assert isinstance(params, DryParams)
        self._repeats.pop(slot, None)
        if params.dry_multiplier == 0 or params.dry_penalty_last_n == 0:
            return False

        self._repeats[slot] = _Repeats(params, opening.ids)
        return True

    def observe(self, slots: Slots, ids: npt.NDArray[Any], probabilities: npt.NDArray[np.float32]) -> None:
        """Count one more token in each of these slots."""
        for slot, token in zip(slots.tolist(), ids.tolist(), strict=True):
            self._repeats[slot].append(token)

    def apply(self, xp: ArrayNamespace, logits: Array, rows: LogitsRows) -> Array:
        """Subtract the penalties of each row."""
        edits = {}
        for row, slot in enumerate(rows.slots.tolist()):
            if slot in self._repeats:
                tokens, penalties = self._repeats[slot].penalties(rows.drafts[row] if rows.drafts else ())
                edits[row] = tokens, -penalties
        return add_to(xp, logits, edits)


class _Repeats:
    """The tokens of one sequence, and for each position how many tokens up to it equal those at the sequence's end."""

    def __init__(self, params: DryParams, ids: Sequence[int]) -> None:
        self._params = params
        self._breakers = frozenset(params.dry_sequence_breaker_ids)
        self._ids = np.array(ids, np.int64)
        self._length = len(ids)
        last_breaker = max((position for position, token in enumerate(ids) if token in self._breakers), default=-1)
        self._matches = np.minimum(_common_suffixes(ids), self._length - 1 - last_breaker)

    def append(self, token: int) -> None:
        """Append the token, and move the matches on."""
        if self._length == len(self._ids):
            room = np.zeros(max(64, self._length), np.int64)
            self._ids, self._matches = np.concatenate([self._ids, room]), np.concatenate([self._matches, room])
        self._ids[self._length] = token
        self._matches[: self._length + 1] = self._after(self._ids[: self._length], self._matches, token)
        self._length += 1

    def penalties(self, drafts: Sequence[int]) -> tuple[Ints, npt.NDArray[np.float64]]:
        """Distinct tokens that would continue a repetition, and their penalties, after these drafts."""
        ids, matches = self._ids[: self._length], self._matches[: self._length]
        for token in drafts:
            matches = self._after(ids, matches, token)
            ids = np.append(ids, token)

        params = self._params
        window = len(ids) if params.dry_penalty_last_n < 0 else min(params.dry_penalty_last_n, len(ids))
        ids, matches = ids[len(ids) - window :], np.minimum(matches[len(ids) - window :], np.arange(1, window + 1))
        at = np.flatnonzero(matches[:-1] >= params.dry_allowed_length)
        tokens, where = np.unique(ids[at + 1], return_inverse=True)
        longest = np.zeros(len(tokens), np.int64)
        np.maximum.at(longest, where, matches[at])
        if self._breakers:
            is_penalised = np.array([token not in self._breakers for token in tokens.tolist()], np.bool_)
            tokens, longest = tokens[is_penalised], longest[is_penalised]
        log_penalties = (longest - params.dry_allowed_length) * np.log(params.dry_base)
        return tokens, params.dry_multiplier * np.exp(np.minimum(log_penalties, _MAX_LOG_PENALTY))

    def _after(self, ids: Ints, matches: Ints, token: int) -> Ints:
        """The matches of the sequence with one token more; the last position, the end itself, counts as 0."""
        after = np.zeros(len(ids) + 1, np.int64)
        if token in self._breakers:
            return after

        after[:-1] = np.where(ids == token, 1, 0)
        after[1:-1] += np.where(ids[1:] == token, matches[: max(len(ids) - 1, 0)], 0)
        return after


def _common_suffixes(ids: Sequence[int]) -> Ints:
    """For each position but the last how many tokens up to it equal those at the end: the Z-function of the reverse."""
    reverse, count = ids[::-1], len(ids)
    lengths = [0] * count
    left = right = 0
    for position in range(1, count):
        length = min(right - position, lengths[position - left]) if position < right else 0
        while position + length < count and reverse[length] == reverse[position + length]:
            length += 1
        lengths[position] = length
        if position + length > right:
            left, right = position, position + length
    return np.array(lengths[::-1], np.int64)
