"""Weights of safetensors and GGUF files, mapped: each tensor is read where it lies, and its pages are given back.

A tensor comes to the library in three steps: its bytes are read (`MappedFiles`), made what the library knows
(`StoredTensor.read`), and packed (`NativeStage.put`).
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from histrio.config.gguf.block_types import BLOCK_TYPES
from histrio.config.gguf.pointer import is_gguf_folder, read_pointer
from histrio.config.weights import read_header
from histrio.errors import UnsupportedModel
from histrio.kit.checkpoint import find_weight_files
from histrio_cpu.abi import Format

__all__ = [
    "Bytes",
    "MappedFiles",
    "MappedTensor",
    "StoredTensor",
    "find_tensors",
    "from_float32",
    "to_bfloat16",
    "to_float32",
]

Bytes = npt.NDArray[np.uint8]

_FIRST_OWN_FORMAT = 1000
_FORMATS = {format.name: format for format in Format if format < _FIRST_OWN_FORMAT}
"""Safetensors and GGUF files name them alike."""
_NUMBERS = {"I8": np.int8, "U8": np.uint8, "I32": np.int32, "U32": np.uint32, "I64": np.int64, "F8_E4M3": np.uint8}
"""What numpy has of the formats that are read as arrays; 8-bit floats are their bits."""
_LENGTH_BYTES = 8


class StoredTensor(Protocol):
    """A tensor under transformers' name and shape, however it is stored."""

    @property
    def name(self) -> str:
        """As transformers has it."""

    @property
    def file(self) -> Path:
        """A file in which it, or a piece of it, is."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""

    @property
    def format(self) -> Format:
        """In which it is handed over; a quantized one may come in a wider one after all. Raises `UnsupportedModel`."""

    @property
    def num_bytes(self) -> int:
        """As stored."""

    @property
    def sources(self) -> tuple[MappedTensor, ...]:
        """What it is read of."""

    @property
    def is_mapped(self) -> bool:
        """It is handed over where it lies."""

    @property
    def rotary_pairs_adjacent(self) -> bool:
        """See `MappedTensor`."""

    @property
    def has_one_added(self) -> bool:
        """See `MappedTensor`."""

    def read(self, files: MappedFiles, begin: int, end: int) -> tuple[Format, Bytes]:
        """The rows from `begin` to `end`, and the format they have."""


@dataclass(frozen=True)
class MappedTensor:
    """A stored tensor, and where its bytes lie."""

    file: Path
    name: str
    stored_as: str
    """Name of its number format."""
    shape: tuple[int, ...]
    """Rows first."""
    first_byte: int
    num_bytes: int
    rotary_pairs_adjacent: bool = False
    """Rows that are rotated together are neighbours, as llama.cpp writes queries and keys of some models."""
    has_one_added: bool = False
    """The factor of a norm, where transformers has the difference to one."""

    @property
    def format(self) -> Format:
        """Its number format. Raises `UnsupportedModel` for one that is not computed with."""
        known = _FORMATS.get(self.stored_as)
        if known is None:
            raise UnsupportedModel(
                f"{self.file}: {self.name[:80]} is stored as {self.stored_as}, which the cpu backend does not compute "
                f"with; use weights in one of {', '.join(_FORMATS)}"
            )
        return known

    def flat(self) -> MappedTensor:
        """The same tensor as a vector."""
        return replace(self, shape=(math.prod(self.shape),))

    def named(self, name: str) -> MappedTensor:
        """The same tensor under another name."""
        return replace(self, name=name)

    def nth(self, index: int) -> MappedTensor:
        """The tensor at `index` of the first dimension."""
        num_bytes = self.num_bytes // self.shape[0]
        first_byte = self.first_byte + index * num_bytes
        return replace(self, shape=self.shape[1:], first_byte=first_byte, num_bytes=num_bytes)

    @property
    def sources(self) -> tuple[MappedTensor, ...]:
        """Itself."""
        return (self,)

    @property
    def is_mapped(self) -> bool:
        """It is handed over where it lies."""
        return True

    def read(self, files: MappedFiles, begin: int, end: int) -> tuple[Format, Bytes]:
        """The bytes of the rows from `begin` to `end`, where they lie."""
        row_bytes = self.num_bytes // self.shape[0]
        return self.format, files.read(self)[begin * row_bytes : end * row_bytes]


class MappedFile:
    """A file of weights in memory, as far as it has been looked at."""

    def __init__(self, file: Path) -> None:
        with file.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._bytes: Bytes = np.frombuffer(self._map, np.uint8)

    def read(self, tensor: MappedTensor) -> Bytes:
        """The bytes of the tensor, where they lie."""
        return self._bytes[tensor.first_byte : tensor.first_byte + tensor.num_bytes]

    def expect(self, tensor: MappedTensor) -> None:
        """Begin to fetch the tensor from the disk."""
        self._advise("MADV_WILLNEED", tensor)

    def release(self, tensor: MappedTensor) -> None:
        """Give back the pages of a tensor that has been copied; reading it again fetches them anew."""
        self._advise("MADV_DONTNEED", tensor)

    def _advise(self, advice: str, tensor: MappedTensor) -> None:
        if not hasattr(mmap, advice):
            return

        start = -(-tensor.first_byte // mmap.PAGESIZE) * mmap.PAGESIZE
        length = tensor.first_byte + tensor.num_bytes - start
        if length > 0:
            self._map.madvise(getattr(mmap, advice), start, length)


class MappedFiles:
    """The files of a model, each mapped once it is needed."""

    def __init__(self) -> None:
        self._files: dict[Path, MappedFile] = {}

    def read(self, tensor: MappedTensor) -> Bytes:
        """The bytes of the tensor, where they lie."""
        return self._of(tensor).read(tensor)

    def array(self, tensor: MappedTensor) -> npt.NDArray[Any]:
        """The numbers of the tensor in its shape: integers as they are, others as float32."""
        data, whole = self.read(tensor), _NUMBERS.get(tensor.stored_as)
        values = to_float32(data, tensor.format) if whole is None else data.view(whole)
        return values.reshape(tensor.shape)

    def expect(self, tensor: StoredTensor) -> None:
        """Begin to fetch the tensor from the disk."""
        for source in tensor.sources:
            self._of(source).expect(source)

    def release(self, tensor: StoredTensor) -> None:
        """Give back the pages of a tensor that has been copied; reading it again fetches them anew."""
        for source in tensor.sources:
            self._of(source).release(source)

    def _of(self, tensor: MappedTensor) -> MappedFile:
        if tensor.file not in self._files:
            self._files[tensor.file] = MappedFile(tensor.file)
        return self._files[tensor.file]


def find_tensors(folder: Path) -> dict[str, MappedTensor]:
    """Name → tensor of the model's safetensors or GGUF files. Raises `ModelError` for a broken header."""
    return _gguf_tensors(folder) if is_gguf_folder(folder) else _safetensors(find_weight_files(folder))


def _safetensors(files: list[Path]) -> dict[str, MappedTensor]:
    found: dict[str, MappedTensor] = {}
    for file in files:
        header = read_header(file)
        with file.open("rb") as stream:
            begin = _LENGTH_BYTES + int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        for name, each in header.items():
            span = (begin + each.data_offsets[0], each.num_bytes)
            found[name] = MappedTensor(file, name, each.dtype, tuple(each.shape), *span)
    return found


def _gguf_tensors(folder: Path) -> dict[str, MappedTensor]:
    pointer = read_pointer(folder)
    return {
        each.name: MappedTensor(
            pointer.paths[each.file_index],
            each.name,
            BLOCK_TYPES[each.block_type].name,
            each.shape,
            each.offset,
            each.num_bytes,
            each.rotary_pairs_adjacent,
            each.has_one_added,
        )
        for each in pointer.tensors
    }


def to_float32(data: Bytes, stored: Format) -> npt.NDArray[np.float32]:
    """The values of a tensor, without loss."""
    match stored:
        case Format.F32:
            return data.view(np.float32)
        case Format.F16:
            return data.view(np.float16).astype(np.float32)
        case Format.BF16:
            return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    raise UnsupportedModel(f"tensors of the format {stored.name} are not read as numbers")


def to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The nearest bfloat16 numbers as their bits, ties to even."""
    bits = values.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)
    nearest: npt.NDArray[np.uint16] = (rounded >> 16).astype(np.uint16)
    return nearest


def from_float32(values: npt.NDArray[np.float32], form: Format) -> Bytes:
    """The nearest numbers of the format F32, BF16 or F16."""
    if form == Format.F32:
        return values.view(np.uint8)
    return (to_bfloat16(values) if form == Format.BF16 else values.astype(np.float16)).view(np.uint8)
