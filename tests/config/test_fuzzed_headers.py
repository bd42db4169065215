"""Headers of safetensors that were changed anywhere: each is read or refused in a sentence, with little memory."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from histrio.config.weights import read_header
from histrio.errors import ModelError
from histrio.testing.models import write_safetensors

NUM_FUZZED, NUM_FUZZED_THOROUGH = 2_000, 10_000
MOST_BYTES_PER_BYTE, FIXED_BYTES = 60, 200_000
"""What a reading may allocate for each byte of the header, and beside it."""
_NUMBERS = (b"0", b"-1", b"1e9", b"4294967296", b"9223372036854775807", b"18446744073709551616", b"1.5", b"null", b"[]")


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    names = ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight")
    arrays = (np.ones((7, 4), np.float32), np.ones((4, 2), np.uint8), np.ones(4, np.float16))
    write_safetensors(tmp_path / "whole.safetensors", dict(zip(names, arrays, strict=True)))
    return (tmp_path / "whole.safetensors").read_bytes()


def mutated(choice: random.Random, whole: bytes) -> bytes:
    """One to three changes: bits, numbers, lengths, pieces that are cut out or doubled, or the end."""
    data = bytearray(whole)
    for _ in range(choice.randint(1, 3)):
        end = min(len(data), 8 + int.from_bytes(whole[:8], "little"))
        if end <= 12:
            break
        at = choice.randrange(8, end)
        match choice.randrange(6):
            case 0:
                data[choice.randrange(end)] ^= 1 << choice.randrange(8)
            case 1:
                data[at : at + choice.randint(1, 3)] = choice.choice(_NUMBERS)
            case 2:
                data[:8] = choice.choice([0, 1, 2, len(data), 2**31, 2**62, 2**64 - 1]).to_bytes(8, "little")
            case 3:
                del data[at : at + choice.randint(1, 40)]
            case 4:
                data[at:at] = data[at : at + choice.randint(1, 40)]
            case _:
                del data[choice.randrange(len(data)) :]
    return bytes(data)


def refusal(file: Path, data: bytes) -> str | None:
    """What is said of `data`; None where they are read."""
    file.write_bytes(data)
    try:
        read_header(file)
    except ModelError as error:
        return str(error)
    return None


def fuzz(file: Path, whole: bytes, seed: int, count: int) -> int:
    """How many of the changed files are refused; each is that or read, and nothing else happens."""
    choice = random.Random(seed)
    said = [refusal(file, mutated(choice, whole)) for _ in range(count)]
    refusals = [each for each in said if each is not None]
    assert all(each.startswith(str(file)) and "\n" not in each and len(each) < 400 for each in refusals)
    return len(refusals)


def test_changed_headers_are_read_or_refused_and_nothing_else(whole: bytes, tmp_path: Path) -> None:
    num_refused = fuzz(tmp_path / "x.safetensors", whole, 1, NUM_FUZZED)
    assert NUM_FUZZED // 2 < num_refused < NUM_FUZZED, "most changes break a header, and some do not"


@pytest.mark.thorough
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(10, 20))
def test_many_changed_headers_are_read_or_refused(seed: int, whole: bytes, tmp_path: Path) -> None:
    num_refused = fuzz(tmp_path / "x.safetensors", whole, seed, NUM_FUZZED_THOROUGH)
    assert NUM_FUZZED_THOROUGH // 2 < num_refused < NUM_FUZZED_THOROUGH


def peak(file: Path, data: bytes) -> int:
    """Most bytes allocated while `data` was read or refused."""
    tracemalloc.start()
    try:
        refusal(file, data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_no_header_makes_the_reader_allocate_more_than_its_own_size_allows(whole: bytes, tmp_path: Path) -> None:
    choice, file = random.Random(3), tmp_path / "x.safetensors"
    for _ in range(200):
        data = mutated(choice, whole)
        assert peak(file, data) < FIXED_BYTES + MOST_BYTES_PER_BYTE * len(data)
    large = b"".join(b',"t%d":{"dtype":"U8","shape":[0],"data_offsets":[92,92]}' % index for index in range(5_000))
    header = b'{"__metadata__":{}' + large + b"}"
    data = len(header).to_bytes(8, "little") + header
    assert FIXED_BYTES < peak(file, data) < FIXED_BYTES + MOST_BYTES_PER_BYTE * len(data), "the measure sees large ones"
