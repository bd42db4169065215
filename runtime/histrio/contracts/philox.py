"""The counter-based random numbers behind every draw: a hash of where a number is used, never of what came before.

One uniform number per (seed, choice, position) makes a draw depend neither on the batch, nor on the split, nor on a
restart. Samplers that need numbers of their own take them from another stream of the same hash.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["philox4x32", "uniform"]

_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
_ROUND_KEYS = np.arange(10, dtype=np.uint32)[:, None, None] * np.array([[0x9E3779B9], [0xBB67AE85]], np.uint32)


def philox4x32(counter: npt.NDArray[np.uint32], key: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).

    `counter` is [4, n], `key` [2, n]; returns [4, n] random words. Equals the published Random123 test vectors.
    """
    even, odd = counter[0::2], counter[1::2]
    for round_key in key + _ROUND_KEYS:
        low, high = _halves(np.multiply(_MULTIPLIERS, even, order="C")[::-1])
        even, odd = high ^ odd ^ round_key, low
    return np.stack([even[0], odd[0], even[1], odd[1]])


def uniform(
    seeds: npt.NDArray[np.uint64], choices: npt.NDArray[Any], positions: npt.NDArray[Any], stream: int = 0
) -> npt.NDArray[np.float32]:
    """One number in (0, 1) per row, float32, from Philox with key = seed and counter = (position, choice, stream, 0).

    Stream 0 is the draw's.
    """
    counter = np.zeros((4, len(seeds)), np.uint32)
    counter[0] = positions
    counter[1] = choices
    counter[2] = stream
    words: npt.NDArray[np.uint32] = philox4x32(counter, np.stack(_halves(np.ascontiguousarray(seeds))))[0]
    return ((words >> np.uint32(9)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23)


def _halves(numbers: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Views of the low and the high half of each number; the low one comes first in memory."""
    words = numbers.view(np.uint32)
    return words[..., 0::2], words[..., 1::2]
