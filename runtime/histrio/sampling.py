"""The sampler contract and the counter-based random numbers behind every draw.

A *sampler* is one link of the chain from logits to a token. It owns its per-slot state, works on all rows of a step at
once through the backend's `ArrayNamespace`, and never sees text. A draw uses one uniform number per
(seed, choice, position), so that it depends neither on the batch, nor on the split, nor on a restart.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from histrio.backend import Array, ArrayNamespace

__all__ = ["Sampler", "Slots", "philox4x32", "uniform"]

Slots = npt.NDArray[np.intp]
"""Slot of each row of the logits; slots repeat where several positions of a sequence are sampled."""


class Sampler(Protocol):
    """One link of the chain. Registered as a class; one instance per last stage."""

    name: ClassVar[str]
    order: ClassVar[int]
    """Samplers run in ascending order; 0-99 penalties and biases, 100-199 temperature, 200-299 truncations."""
    params: ClassVar[type[msgspec.Struct]]
    """Request fields it honours, with their bounds as `msgspec.Meta`; defaults mean "does nothing"."""

    def __init__(self, max_rows: int) -> None:
        """Make the per-slot state."""

    def open(self, slot: int, params: msgspec.Struct, ids: list[int], num_prompt_tokens: int) -> None:
        """A sequence takes the slot; `params` is an instance of `self.params`."""

    def needed(self, slots: Slots) -> bool:
        """Whether any of these rows wants this sampler; it is skipped otherwise."""

    def apply(self, xp: ArrayNamespace, logits: Array, slots: Slots) -> Array:
        """Change float32 logits [rows, vocab]; -inf removes a token. Rows that do not want it stay as they are."""


_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
_ROUND_KEYS = np.arange(10, dtype=np.uint64)[:, None, None] * np.array([[0x9E3779B9], [0xBB67AE85]], np.uint64)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox4x32(counter: npt.NDArray[np.uint32], key: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).

    `counter` is [n, 4], `key` [n, 2]; returns [n, 4] random words. Equals the published Random123 test vectors.
    """
    words = counter.T.astype(np.uint64)
    even, odd = words[0::2], words[1::2]
    for round_key in (key.T.astype(np.uint64) + _ROUND_KEYS) & _LOW:
        product = _MULTIPLIERS * even
        even, odd = (product >> _HALF)[::-1] ^ odd ^ round_key, (product & _LOW)[::-1]
    return np.stack([even[0], odd[0], even[1], odd[1]], axis=1).astype(np.uint32)


def uniform(
    seeds: npt.NDArray[np.uint64], choices: npt.NDArray[np.uint32], positions: npt.NDArray[np.uint32]
) -> npt.NDArray[np.float32]:
    """One number in (0, 1) per row, float32, from Philox with key = seed and counter = (position, choice, 0, 0)."""
    counter = np.zeros((len(seeds), 4), np.uint32)
    counter[:, 0] = positions
    counter[:, 1] = choices
    key = np.stack([seeds & _LOW, seeds >> np.uint64(32)], axis=1).astype(np.uint32)
    words = philox4x32(counter, key)[:, 0]
    return ((words >> np.uint32(9)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23)
