"""The counter-based numbers equal the published ones, and are uniform in (0, 1)."""

from __future__ import annotations

import numpy as np
import pytest

from histrio.contracts.philox import philox4x32, uniform

# Random123, kat_vectors, philox4x32-10: counter, key, expected words.
VECTORS = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def _words(counter: list[int], key: list[int]) -> list[int]:
    words: list[int] = philox4x32(np.array([counter], np.uint32).T, np.array([key], np.uint32).T)[:, 0].tolist()
    return words


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS, ids=["zeros", "ones", "pi"])
def test_philox_equals_the_published_vectors(counter: list[int], key: list[int], expected: list[int]) -> None:
    assert _words(counter, key) == expected
    assert _words([counter[0] ^ 1, *counter[1:]], key) != expected


def test_rows_are_hashed_independently() -> None:
    counters = np.array([vector[0] for vector in VECTORS], np.uint32)
    keys = np.array([vector[1] for vector in VECTORS], np.uint32)

    assert philox4x32(counters.T, keys.T).T.tolist() == [vector[2] for vector in VECTORS]


def test_seeds_may_lie_anywhere_in_memory() -> None:
    seeds = np.arange(6, dtype=np.uint64) << np.uint64(31)
    others = np.zeros(3, np.uint32), np.arange(3, dtype=np.uint32)

    numbers = uniform(seeds[::2], *others)

    assert numbers.tolist() == uniform(seeds[::2].copy(), *others).tolist()
    assert numbers.tolist() != uniform(seeds[:3], *others).tolist()


def test_numbers_lie_strictly_between_0_and_1_and_spread_evenly() -> None:
    count = 100_000
    numbers = uniform(np.full(count, 7, np.uint64), np.zeros(count, np.uint32), np.arange(count, dtype=np.uint32))

    assert numbers.dtype == np.float32
    assert numbers.min() > 0
    assert numbers.max() < 1
    histogram, _ = np.histogram(numbers, bins=100, range=(0, 1))
    chi_squared = ((histogram - count / 100) ** 2 / (count / 100)).sum()
    assert 40 < chi_squared < 180  # 99 degrees of freedom; outside with a chance below 1e-6


def test_seed_choice_and_position_each_give_another_number() -> None:
    seeds = np.array([1, 2, 1, 1, 1 + 2**32], np.uint64)
    choices = np.array([0, 0, 1, 0, 0], np.uint32)
    positions = np.array([5, 5, 5, 6, 5], np.uint32)

    assert len(set(uniform(seeds, choices, positions).tolist())) == 5
    assert uniform(seeds, choices, positions)[0] == uniform(seeds[:1], choices[:1], positions[:1])[0]
