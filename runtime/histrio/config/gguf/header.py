"""Reads the header of one GGUF file: metadata, and where each tensor lies.

No tensor is read. Everything is checked against the file: a file that is cut short, or whose header was made up, is
refused by name before anything is allocated for it.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from histrio.config.gguf.block_types import BLOCK_TYPES, REMOVED_TYPES
from histrio.config.gguf.cursor import UINT32, UINT64, Cursor, shown
from histrio.config.model_files import open_model_file
from histrio.errors import ModelError, UnsupportedModel

__all__ = ["GgufHeader", "GgufTensor", "map_file", "parse_header", "read_gguf_header"]

_MAGIC = b"GGUF"
_OLDER = (b"lmgg", b"fmgg", b"tjgg", b"algg")
"""First bytes of the formats before GGUF."""
_VERSIONS = (2, 3)
_MOST_HEADER_BYTES = 256 * 2**20
"""The largest published vocabularies take 10 MB."""
_MOST_DIMENSIONS = 4
_MOST_NAME_BYTES = 2**16
_MOST_VALUES = 2**53
_MOST_ALIGNMENT = 2**16
_DEFAULT_ALIGNMENT = 32
_LEAST_ENTRY_BYTES = 13
"""Of metadata: an empty key and a value of one byte."""
_LEAST_TENSOR_BYTES = 24


class GgufTensor(msgspec.Struct, frozen=True):
    """One tensor, as a header describes it."""

    name: str
    """As the file calls it: `blk.0.attn_q.weight`."""
    block_type: int
    """Number of its format, in `BLOCK_TYPES`."""
    shape: tuple[int, ...]
    """Rows first, as numpy has it; the file writes the length of a row first."""
    offset: int
    """First byte of its data in the file."""
    num_bytes: int


class GgufHeader(msgspec.Struct, frozen=True):
    """What one file says of itself."""

    version: int
    metadata: Mapping[str, Any]
    """Numbers, strings, truth values, arrays of numpy, lists."""
    tensors: list[GgufTensor]


def read_gguf_header(file: Path) -> GgufHeader:
    """The header of `file`. Raises `ModelError` with the file's name and the fault, `ModelUnavailable` for no file."""
    with map_file(file) as data:
        return parse_header(data, len(data), file)


def map_file(file: Path) -> mmap.mmap:
    """The file's bytes, mapped for reading. Raises as `read_gguf_header`."""
    with open_model_file(file) as stream:
        if os.fstat(stream.fileno()).st_size < len(_MAGIC):
            raise ModelError(f"{file} is not a GGUF file: it is empty or nearly so; fetch it again")
        try:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise ModelError(f"{file} cannot be mapped: {error.strerror}") from None


def parse_header(data: bytes | mmap.mmap, num_bytes: int, file: object) -> GgufHeader:
    """The header at the beginning of `data`, for a file of `num_bytes`. Raises `ModelError`."""
    cursor = Cursor(data, min(num_bytes, _MOST_HEADER_BYTES), file)
    version = _read_version(cursor, data[:4], file)
    num_tensors = cursor.count("the number of tensors", _LEAST_TENSOR_BYTES)
    num_entries = cursor.count("the number of metadata entries", _LEAST_ENTRY_BYTES)
    metadata: dict[str, Any] = {}
    for _ in range(num_entries):
        key = cursor.string("a key of the metadata", _MOST_NAME_BYTES)
        if key in metadata:
            cursor.fail(f"the key {shown(key)} is there twice")
        value_type = int(cursor.number(UINT32, f"the type of {shown(key)}"))
        metadata[key] = cursor.value(value_type, shown(key))
    alignment = _alignment(metadata, cursor)
    entries = [_read_tensor(cursor) for _ in range(num_tensors)]
    begin = -(-cursor.at // alignment) * alignment
    tensors = [msgspec.structs.replace(each, offset=begin + each.offset) for each in entries]
    _check_offsets(tensors, alignment, num_bytes, cursor)
    return GgufHeader(version, metadata, tensors)


def _read_version(cursor: Cursor, magic: bytes, file: object) -> int:
    if magic != _MAGIC:
        raise ModelError(f"{file} is not a GGUF file{_what_it_is(magic)}")

    cursor.at = len(_MAGIC)
    version = int(cursor.number(UINT32, "its version"))
    if version in _VERSIONS:
        return version
    if version and not version & 0xFFFF:
        raise UnsupportedModel(
            f"{file} is a big-endian GGUF file, and only little-endian ones are read; take the usual file, or convert "
            "this one with `gguf-convert-endian FILE little`"
        )
    if version == 1:
        raise UnsupportedModel(f"{file} is GGUF of version 1, which no tool writes any more; take a newer file")
    raise UnsupportedModel(f"{file} is GGUF of version {version}; versions {_VERSIONS[0]} and {_VERSIONS[1]} are read")


def _what_it_is(magic: bytes) -> str:
    """What such files mostly are instead."""
    if magic in _OLDER:
        return ", but of a format that came before it; take a newer file of the model"
    if magic == b"vers":
        return ", but a pointer of Git LFS: fetch the weights with `git lfs pull`"
    if magic.lstrip()[:1] in (b"<", b"{"):
        return ", but a web page or a message; fetch it again"
    return "; fetch it again"


def _alignment(metadata: Mapping[str, Any], cursor: Cursor) -> int:
    value = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(value, int) or not 1 <= value <= _MOST_ALIGNMENT or value & (value - 1):
        cursor.fail(f"general.alignment must be a power of two up to {_MOST_ALIGNMENT}")
    return value


def _read_tensor(cursor: Cursor) -> GgufTensor:
    """The next entry of the table, with an offset that counts from the beginning of the data."""
    name = cursor.string("the name of a tensor", _MOST_NAME_BYTES)
    num_dimensions = int(cursor.number(UINT32, f"the dimensions of {shown(name)}"))
    if not 1 <= num_dimensions <= _MOST_DIMENSIONS:
        cursor.fail(f"{shown(name)} has {num_dimensions} dimensions; tensors have 1 to {_MOST_DIMENSIONS}")
    sizes = [int(cursor.number(UINT64, f"the shape of {shown(name)}")) for _ in range(num_dimensions)]
    number = int(cursor.number(UINT32, f"the format of {shown(name)}"))
    offset = int(cursor.number(UINT64, f"the offset of {shown(name)}"))
    num_values = math.prod(sizes)
    if not 0 < num_values <= _MOST_VALUES:
        cursor.fail(f"{shown(name)} has a shape that cannot be")

    block_type = BLOCK_TYPES.get(number)
    if block_type is None:
        gone = REMOVED_TYPES.get(number)
        raise UnsupportedModel(
            f"{cursor.file}: {shown(name)} is stored in {gone}, which the format has given up; take a newer file"
            if gone
            else f"{cursor.file}: {shown(name)} is stored in a format (number {number}) that is not known here"
        )
    if sizes[0] % block_type.block_values:
        cursor.fail(
            f"{shown(name)} has rows of {sizes[0]} values, which {block_type.name} cannot cut into blocks of "
            f"{block_type.block_values}"
        )
    return GgufTensor(name, number, tuple(reversed(sizes)), offset, block_type.num_bytes(num_values))


def _check_offsets(tensors: list[GgufTensor], alignment: int, num_bytes: int, cursor: Cursor) -> None:
    """The tensors lie in the file, at multiples of the alignment, and none in another; names are there once."""
    if len({tensor.name for tensor in tensors}) < len(tensors):
        cursor.fail("two tensors have the same name")

    end = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        if tensor.offset % alignment or tensor.offset < end:
            cursor.fail(f"{shown(tensor.name)} lies where it cannot (not aligned, or within another tensor)")
        end = tensor.offset + tensor.num_bytes
        if end > num_bytes:
            cursor.fail(f"cut short: {num_bytes} of at least {end} bytes are there; fetch the file again")
