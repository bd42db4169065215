"""The counter-based random numbers behind every draw: a hash of where a number is used, never of what came before.

One uniform number per (seed, choice, position) makes a draw depend neither on the batch, nor on the split, nor on a
restart. Samplers that need numbers of their own take them from another stream of the same hash.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["philox4x32", "uniform"]

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
    seeds: npt.NDArray[np.uint64],
    choices: npt.NDArray[np.uint32],
    positions: npt.NDArray[np.uint32],
    stream: int = 0,
) -> npt.NDArray[np.float32]:
    """One number in (0, 1) per row, float32, from Philox with key = seed and counter = (position, choice, stream, 0).

    Stream 0 is the draw's.
    """
    counter = np.zeros((len(seeds), 4), np.uint32)
    counter[:, 0] = positions
    counter[:, 1] = choices
    counter[:, 2] = stream
    key = np.stack([seeds & _LOW, seeds >> _HALF], axis=1).astype(np.uint32)
    words = philox4x32(counter, key)[:, 0]
    return ((words >> np.uint32(9)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23)
