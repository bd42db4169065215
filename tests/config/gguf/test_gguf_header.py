"""Headers of GGUF files: what they say is read, and what cannot be is refused by name before anything is made of it."""

from __future__ import annotations

import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histrio.config.gguf.header import GgufHeader, parse_header, read_gguf_header
from histrio.errors import ModelError, ModelUnavailable, UnsupportedModel
from histrio.testing.gguf import F16, F32, Q8_0, StoredBlocks, blocks, gguf_bytes, write_gguf

METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.alignment": 64,
    "llama.block_count": 3,
    "llama.rope.freq_base": 0.5,
    "a.truth": True,
    "a.large": 2**40,
    "a.negative": -7,
    "tokenizer.ggml.tokens": ["a", "ü", "", "日本"],
    "tokenizer.ggml.scores": np.array([0.5, -1.0], np.float32),
    "a.truths": np.array([True, False]),
    "a.bytes": np.arange(5, dtype=np.uint8),
    "a.nested": [np.array([1, 2], np.int32), np.array([3], np.int32)],
}
TENSORS = {
    "token_embd.weight": blocks(np.arange(96).reshape(3, 32), Q8_0),
    "output_norm.weight": blocks(np.ones(5), F32),
    "rope.weight": blocks(np.ones((2, 3, 7)), F16),
}
WHOLE = gguf_bytes(METADATA, TENSORS)
DATA_BEGINS = WHOLE.rindex(b"rope.weight") // 64 * 64
NUM_FUZZED, NUM_FUZZED_THOROUGH = 10_000, 100_000
MOST_BYTES_PER_BYTE = 40
"""What a reading may allocate for each byte of the file: a nested array of no items takes most."""
FIXED_BYTES = 100_000


def parse(data: bytes) -> GgufHeader:
    return parse_header(data, len(data), "x.gguf")


@pytest.mark.parametrize("version", [2, 3])
def test_what_was_written_is_read(version: int, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "x.gguf", METADATA, TENSORS, version)
    header = read_gguf_header(file)
    assert header.version == version
    assert header.metadata.keys() == METADATA.keys()
    for key, value in METADATA.items():
        if key == "a.nested":
            assert [each.tolist() for each in header.metadata[key]] == [[1, 2], [3]]
        else:
            assert np.array_equal(header.metadata[key], value), key
            assert getattr(header.metadata[key], "dtype", None) == getattr(value, "dtype", None), key
    content = file.read_bytes()
    for tensor in header.tensors:
        written = TENSORS[tensor.name]
        assert (tensor.block_type, tensor.shape) == (written.block_type, written.shape)
        assert tensor.offset % 64 == 0
        assert content[tensor.offset : tensor.offset + tensor.num_bytes] == written.data


def test_the_alignment_is_32_where_the_file_names_none() -> None:
    metadata = {key: value for key, value in METADATA.items() if key != "general.alignment"}
    offsets = [tensor.offset for tensor in parse(gguf_bytes(metadata, TENSORS)).tensors]
    assert all(offset % 32 == 0 for offset in offsets)
    assert any(offset % 64 for offset in offsets)


def patched(at: int, content: bytes) -> bytes:
    return WHOLE[:at] + content + WHOLE[at + len(content) :]


def made(metadata: dict[str, Any] | None = None, **tensors: StoredBlocks) -> bytes:
    return gguf_bytes(metadata or {}, tensors)


def twice(key: str) -> bytes:
    return gguf_bytes({key: 1, key[::-1]: 2}, {}).replace(key[::-1].encode(), key.encode())


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"GGML" + WHOLE[4:], "not a GGUF file"),
        (b"tjgg" + WHOLE[4:], "a format that came before it"),
        (b"version https://git-lfs", "Git LFS"),
        (b"<!doctype html>", "a web page"),
        (patched(8, struct.pack("<Q", 2**60)), "the number of tensors is"),
        (patched(16, struct.pack("<Q", 2**60)), "the number of metadata entries is"),
        (patched(24, struct.pack("<Q", 2**63)), "the length of a key of the metadata is"),
        (patched(32, b"\xff"), "a key of the metadata is not UTF-8"),
        (WHOLE[:30], "has room for"),
        (WHOLE[:-1], "cut short"),
        (twice("a.b"), "'a.b' is there twice"),
        (made({"general.alignment": 48}), "general.alignment must be a power of two"),
        (made({"general.alignment": 2**17}), "general.alignment must be a power of two"),
        (made({"k": np.array([2, 1], np.uint8).view(np.bool_)}), "neither 0 nor 1"),
        (made(t=StoredBlocks(Q8_0, (2, 31), bytes(99))), "rows of 31 values, which Q8_0 cannot cut"),
        (made(t=StoredBlocks(F32, (2, 0), b"")), "'t' has a shape that cannot be"),
        (made(t=StoredBlocks(F32, (2**40, 2**40), b"")), "'t' has a shape that cannot be"),
        (made(t=StoredBlocks(F32, (1,) * 5, bytes(4))), "'t' has 5 dimensions"),
        (made(t=StoredBlocks(F32, (100,), bytes(4))), "cut short"),
    ],
)
def test_a_broken_header_is_refused_by_name(data: bytes, fault: str) -> None:
    with pytest.raises(ModelError, match=fault) as caught:
        parse(data)
    assert str(caught.value).startswith("x.gguf")


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (patched(4, struct.pack(">I", 3)), "big-endian"),
        (patched(4, struct.pack("<I", 1)), "of version 1"),
        (patched(4, struct.pack("<I", 4)), "of version 4; versions 2 and 3 are read"),
        (made(t=StoredBlocks(31, (32,), bytes(18))), "a rearranged Q4_0, which the format has given up"),
        (made(t=StoredBlocks(999, (32,), bytes(18))), r"number 999\) that is not known"),
    ],
)
def test_what_no_reader_reads_any_more_or_yet_is_refused_by_name(data: bytes, fault: str) -> None:
    with pytest.raises(UnsupportedModel, match=fault):
        parse(data)


def test_tensors_that_overlap_are_refused() -> None:
    data = gguf_bytes({}, {"aaa": blocks(np.ones(16), F32), "bbb": blocks(np.ones(16), F32)})
    at = data.index(b"bbb") + 3 + 4 + 8 + 4
    assert struct.unpack_from("<Q", data, at) == (64,)
    assert len(parse(data).tensors) == 2
    for offset in (32, 33):
        with pytest.raises(ModelError, match="'bbb' lies where it cannot"):
            parse(data[:at] + struct.pack("<Q", offset) + data[at + 8 :])


def test_two_tensors_of_one_name_are_refused() -> None:
    data = gguf_bytes({}, {"aaa": blocks(np.ones(16), F32), "bbb": blocks(np.ones(16), F32)})
    with pytest.raises(ModelError, match="two tensors have the same name"):
        parse(data.replace(b"bbb", b"aaa"))


def test_arrays_of_arrays_of_arrays_end_somewhere() -> None:
    inner: Any = np.array([1], np.int32)
    for _ in range(3):
        inner = [inner]
    assert parse(made({"k": inner})).metadata["k"][0][0][0].tolist() == [1]
    with pytest.raises(ModelError, match="'k' is nested too deep"):
        parse(made({"k": [inner]}))


def test_what_is_no_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"none\.gguf is missing"):
        read_gguf_header(tmp_path / "none.gguf")
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(ModelError, match=r"empty\.gguf is not a GGUF file: it is empty"):
        read_gguf_header(tmp_path / "empty.gguf")
    with pytest.raises(ModelError, match="is not a file"):
        read_gguf_header(tmp_path)


def mutated(choice: random.Random, whole: bytes, header_bytes: int) -> bytes:
    """One to four changes: bits, numbers as large as they can be, pieces that are cut out, or the end."""
    data = bytearray(whole)
    for _ in range(choice.randint(1, 4)):
        at = choice.randrange(header_bytes)
        match choice.randrange(5):
            case 0:
                data[at % len(data)] ^= 1 << choice.randrange(8)
            case 1:
                data[at : at + 8] = struct.pack("<Q", choice.choice([0, 1, 2**31, 2**32, 2**62, 2**63, 2**64 - 1]))
            case 2:
                data[at : at + 4] = struct.pack("<I", choice.choice([0, 7, 8, 9, 12, 13, 2**31, 2**32 - 1]))
            case 3:
                del data[at : at + choice.randint(1, 64)]
            case _:
                del data[choice.randrange(4, len(data) + 1) :]
        if len(data) < 64:
            break
    return bytes(data)


def fuzz(seed: int, num_headers: int) -> int:
    """How many of the mutated headers are refused; each is that or read, and nothing else happens."""
    choice = random.Random(seed)
    said = [refusal(mutated(choice, WHOLE, DATA_BEGINS)) for _ in range(num_headers)]
    refusals = [each for each in said if each is not None]
    assert all(each.startswith("x.gguf") and len(each) < 400 for each in refusals)
    return len(refusals)


def refusal(data: bytes) -> str | None:
    """What is said of `data`; None where they are read."""
    try:
        parse(data)
    except ModelError as error:
        return str(error)
    return None


def test_mutated_headers_are_read_or_refused_and_nothing_else() -> None:
    num_refused = fuzz(1, NUM_FUZZED)
    assert NUM_FUZZED // 2 < num_refused < NUM_FUZZED, "most changes break a header, and some do not"


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_ten_times_as_many_mutated_headers_are_read_or_refused() -> None:
    assert NUM_FUZZED_THOROUGH // 2 < fuzz(2, NUM_FUZZED_THOROUGH) < NUM_FUZZED_THOROUGH


def peak(data: bytes) -> int:
    """Most bytes allocated while `data` was read or refused."""
    tracemalloc.start()
    try:
        refusal(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_no_header_makes_the_reader_allocate_more_than_its_own_size_allows() -> None:
    choice = random.Random(3)
    for _ in range(300):
        data = mutated(choice, WHOLE, DATA_BEGINS)
        assert peak(data) < FIXED_BYTES + MOST_BYTES_PER_BYTE * len(data)
    claims = patched(16, struct.pack("<Q", 2**50))
    assert peak(claims) < FIXED_BYTES
    large = made({"k": [""] * 200_000})
    assert FIXED_BYTES < peak(large) < FIXED_BYTES + MOST_BYTES_PER_BYTE * len(large), "the measure sees large ones"
