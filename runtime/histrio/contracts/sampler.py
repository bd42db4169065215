"""The sampler contract.

A *sampler* is one link of the chain from logits to a token. It owns its per-slot state, works on the logits of a
whole step at once through the backend's `ArrayNamespace`, and never sees text. A row here is a row of logits: one per
sampled position, so several for a sequence with drafts. What a sampler does to a row depends on that row alone: on its
logits, its request fields, its tokens and its position in the sequence, never on the batch.

Most samplers need `open` and `apply`. One that counts or matches tokens is an `Observer` too; one with a state that
tokens cannot rebuild, which therefore has to survive a restart, is `Stateful`. A class is what it has methods for.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import msgspec
import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import Array, ArrayNamespace
from histrio.contracts.philox import uniform
from histrio.messages import Open

__all__ = [
    "TOKEN_ID",
    "DraftProbs",
    "DraftSampler",
    "LogitsRows",
    "Observer",
    "Opening",
    "Sampler",
    "Slots",
    "Stateful",
    "TokenId",
    "TokenIdKey",
]

TOKEN_ID = "token id"
"""The title of a token id's JSON schema, by which edges find where the vocabulary is a bound."""
TokenId = Annotated[
    int, msgspec.Meta(ge=0, lt=2**31, extra={"is_token_id": True}, extra_json_schema={"title": TOKEN_ID})
]
"""Type of a sampler's or an engine's field for ids that must be in the model's vocabulary."""
TokenIdKey = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,9}\Z", extra={"is_token_id": True})]
"""The same as a key of a JSON object."""

Slots: TypeAlias = npt.NDArray[np.intp]
"""Slot of each row; slots repeat, side by side, where several positions of a sequence are sampled."""

Ints: TypeAlias = npt.NDArray[Any]

DraftProbs: TypeAlias = list[tuple[int, float]]
"""A distribution that a token was drawn from: those that could have come, with probabilities that add up to 1."""


@dataclass(frozen=True, slots=True)
class Opening:
    """A sequence as it takes a slot. After a restart it has more `ids`, and everything else is what it was."""

    ids: Sequence[int]
    """Prompt, followed by the tokens generated so far."""
    num_prompt_tokens: int
    end_ids: Sequence[int] = ()
    """Tokens that end the text: the model's, unless the request ignores them, and those the client named."""
    state: Any = None
    """The result of `Stateful.state` after the last of `ids`; None in the beginning."""


@dataclass(slots=True)
class LogitsRows:
    """To which sequence and position each row of logits belongs. All arrays are on the host."""

    slots: Slots
    """[rows] slot of the sequence."""
    positions: Ints
    """[rows] index in its sequence of the token that is to be chosen, so also the number of tokens before it."""
    seeds: npt.NDArray[np.uint64]
    """[rows] key of the sequence's random numbers; `choices` are a part of their counter."""
    choices: npt.NDArray[np.uint32]
    drafts: Sequence[Sequence[int]] = ()
    """[rows] drafted tokens that stand between the slot's known tokens and this row's position, taken as if accepted;
    empty as a whole if no row of the step has any. All rows of a sequence come together, ascending."""

    def __len__(self) -> int:
        return len(self.slots)

    def take(self, rows: Ints) -> LogitsRows:
        """Some of these rows."""
        drafts = [self.drafts[row] for row in rows] if self.drafts else ()
        return LogitsRows(self.slots[rows], self.positions[rows], self.seeds[rows], self.choices[rows], drafts)

    def uniform(self, name: str) -> npt.NDArray[np.float32]:
        """[rows] a number in (0, 1) for each row, always the same for this row; `name` tells users of them apart."""
        return uniform(self.seeds, self.choices, self.positions, stream=zlib.crc32(name.encode()))


class Sampler(Protocol):
    """One link of the chain. Registered as a class; one instance per last stage."""

    name: ClassVar[str]
    order: ClassVar[int]
    """Samplers run in ascending order; 0-39 constraints, which may remove any token, 40-99 biases and penalties, which
    leave one at least; greedy rows have both; 100-199 temperature, 200-299 truncations."""
    params: ClassVar[type[msgspec.Struct]]
    """Request fields that the sampler honours, with their bounds as `msgspec.Meta`; defaults mean "does nothing"."""

    def __init__(self, max_slots: int) -> None:
        """Make the per-slot state."""

    def open(self, slot: int, params: msgspec.Struct, opening: Opening) -> bool:
        """A sequence takes the slot, and whatever was there is gone; `params` is an instance of `self.params`.

        Not called where the sequence has no field of this sampler, unless the one before it there wanted the sampler.
        Answers whether the sequence wants this sampler. If no row of a step does, `apply` is not called at all.
        """

    def apply(self, xp: ArrayNamespace, logits: Array, rows: LogitsRows) -> Array:
        """Change float32 logits [rows, vocab], in place or not; -inf removes a token.

        Rows that do not want this sampler stay as they are.
        """


@runtime_checkable
class Observer(Protocol):
    """A sampler that follows the tokens of the sequences that want it."""

    def observe(self, slots: Slots, ids: Ints, probabilities: npt.NDArray[np.float32]) -> None:
        """`ids[i]` has become the next token of the sequence in `slots[i]`, in this order where a slot repeats.

        `probabilities[i]` is the probability of the token in the distribution from which it was drawn; 1 for a greedy
        row.
        """


@runtime_checkable
class Stateful(Protocol):
    """A sampler with a state that a sequence's tokens alone do not determine."""

    def state(self, slot: int) -> Any:
        """The state after the tokens observed so far, of plain numbers, strings, lists and dicts."""


class SampledIds(Protocol):
    """What `DraftSampler.sample` returns."""

    ids: list[int]
    """One token per row; negative where none was left."""


class DraftSampler(Protocol):
    """The last stage's samplers, in the hands of a drafter that computes logits of its own."""

    def open(self, command: Open) -> None:
        """A sequence takes a slot. Raises `RequestError` for a field that no sampler honours."""

    def close(self, slot: int) -> None:
        """The slot is free. Closing a free slot does nothing."""

    def sample(self, xp: ArrayNamespace, logits: Array, slots: Slots, positions: Ints) -> SampledIds:
        """Draw for each row of `logits` [rows, vocab]; `positions` [rows] are those of the tokens to be drawn."""
