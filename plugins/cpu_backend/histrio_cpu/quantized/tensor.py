"""A quantized tensor: pieces of a checkpoint that are one matrix together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histrio.errors import ModelError, UnsupportedModel
from histrio_cpu.abi import Format
from histrio_cpu.quantized.blocks import GROUP
from histrio_cpu.weights import Bytes, MappedFiles, MappedTensor

__all__ = [
    "Array",
    "BuiltTensor",
    "Convert",
    "Pieces",
    "check_columns",
    "check_shape",
    "matrix_shape",
    "nibbles",
    "take",
    "width",
]

Array = npt.NDArray[Any]
Pieces = dict[str, MappedTensor]
"""Last part of the name → tensor, of the tensors that share the rest of it."""
Convert = Callable[[Sequence[Array], int, int], tuple[Format, Bytes]]
"""The arrays of the sources, and the rows from … to … → the blocks of these rows."""


@dataclass(frozen=True)
class BuiltTensor:
    """Implements `histrio_cpu.weights.StoredTensor`."""

    name: str
    shape: tuple[int, ...]
    format: Format
    sources: tuple[MappedTensor, ...]
    convert: Convert
    is_mapped: bool = False
    rotary_pairs_adjacent: bool = False
    has_one_added: bool = False

    @property
    def file(self) -> Path:
        """That of its integers."""
        return self.sources[0].file

    @property
    def num_bytes(self) -> int:
        """Of all pieces."""
        return sum(source.num_bytes for source in self.sources)

    def read(self, files: MappedFiles, begin: int, end: int) -> tuple[Format, Bytes]:
        """The blocks of the rows from `begin` to `end`."""
        return self.convert([files.array(source) for source in self.sources], begin, end)


def check_shape(tensor: MappedTensor, stored_as: Sequence[str], *expected: int) -> None:
    """Raise `ModelError` where a piece is not stored as one of `stored_as`, in the shape `expected`."""
    if tensor.stored_as in stored_as and tensor.shape == expected:
        return

    raise ModelError(
        f"{tensor.file}: {tensor.name[:80]} is {tensor.stored_as} of the shape {list(tensor.shape)}, and beside the "
        f"other pieces of its matrix it should be {' or '.join(stored_as)} of {list(expected)}; fetch the model again"
    )


def check_columns(tensor: MappedTensor, columns: int, num_groups: int) -> None:
    """Raise `UnsupportedModel` where groups of inputs are not whole blocks."""
    if num_groups < 1 or columns % num_groups or columns // num_groups % GROUP:
        raise UnsupportedModel(
            f"{tensor.name[:80]} has {num_groups} groups of {columns} inputs; groups of 32, 64, 128 … are computed with"
        )


def take(stem: str, pieces: Pieces, names: Sequence[str]) -> tuple[MappedTensor, ...]:
    """Take these pieces out. Raises `ModelError` where one is missing."""
    missing = [name for name in names if name not in pieces]
    if missing:
        raise ModelError(
            f"there is no {stem[:80]}.{missing[0]} beside the other pieces of the matrix; fetch the model again"
        )

    return tuple(pieces.pop(name) for name in names)


def width(bits: int | None, known: Sequence[int], what: str) -> int:
    """The bits of a weight. Raises `UnsupportedModel` for those that are not among `known`."""
    if bits is None or bits not in known:
        raise UnsupportedModel(
            f"its weights are quantized by {what} to {bits} bits; {' and '.join(map(str, known))} are computed with"
        )
    return bits


def matrix_shape(tensor: MappedTensor) -> tuple[int, int]:
    """Its rows and columns. Raises `ModelError` where it has others, or none."""
    if len(tensor.shape) != 2 or 0 in tensor.shape:
        raise ModelError(
            f"{tensor.file}: {tensor.name[:80]} has the shape {list(tensor.shape)}, which is no matrix; "
            "fetch the model again"
        )
    return tensor.shape[0], tensor.shape[1]


def nibbles(words: Array, bits: int) -> Array:
    """[…, n] words of 32 bits → […, n, 32 / bits] codes, the lowest first."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    return (words.view(np.uint32)[..., None] >> shifts & np.uint32(2**bits - 1)).astype(np.uint8)
