"""Weights of safetensors and GGUF files, mapped: each tensor is read where it lies, and its pages are given back."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from histrio.config.gguf.block_types import BLOCK_TYPES
from histrio.config.gguf.pointer import is_gguf_folder, read_pointer
from histrio.config.weights import read_header
from histrio.errors import ModelError, UnsupportedModel
from histrio.kit.checkpoint import find_weight_files
from histrio_cpu.abi import Format

__all__ = ["Bytes", "MappedTensor", "find_tensors", "to_bfloat16", "to_float32"]

Bytes = npt.NDArray[np.uint8]

_FORMATS = {format.name: format for format in Format}
"""Safetensors and GGUF files name them alike."""
_LENGTH_BYTES = 8


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

    def check(self, rows: int, columns: int) -> None:
        """Raise `UnsupportedModel` for its format, and `ModelError` where it has another shape than config.json
        promises; vectors have one column."""
        _ = self.format
        expected = (rows, columns) if columns > 1 else (rows,)
        if self.shape != expected:
            raise ModelError(
                f"{self.file}: {self.name[:80]} has the shape {list(self.shape)}, and config.json says {list(expected)}"
            )


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
