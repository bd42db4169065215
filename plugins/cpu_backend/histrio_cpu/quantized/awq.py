"""AWQ: words of 32 bits packed along the outputs, eight in the order 0, 2, 4, 6, 1, 3, 5, 7."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from histrio.errors import UnsupportedModel
from histrio_cpu.abi import Format
from histrio_cpu.quantized.blocks import Integers, planned_format, to_blocks, to_pairs
from histrio_cpu.quantized.settings import Settings
from histrio_cpu.quantized.tensor import (
    Array,
    BuiltTensor,
    Pieces,
    check_columns,
    check_shape,
    matrix_shape,
    nibbles,
    take,
    width,
)
from histrio_cpu.weights import Bytes

__all__ = ["assemble"]

_PER_WORD = 8
_INDICES = np.array([0, 4, 1, 5, 2, 6, 3, 7])
"""The index within a word of the outputs 0 to 7."""


def assemble(stem: str, pieces: Pieces, settings: Settings) -> list[BuiltTensor]:
    """The matrix of the pieces. Raises `UnsupportedModel` and `ModelError`."""
    if "qweight" not in pieces:
        return []

    width(settings.w_bit if settings.bits is None else settings.bits, (4,), "AWQ")
    if settings.version.lower() != "gemm":
        raise UnsupportedModel(f"its AWQ weights are in the format {settings.version[:20]!r}; gemm is read")
    weight, zeros, scales = sources = take(stem, pieces, ("qweight", "qzeros", "scales"))
    columns, words = matrix_shape(weight)
    rows, groups = words * _PER_WORD, matrix_shape(scales)[0]
    check_shape(weight, ("I32",), columns, rows // _PER_WORD)
    check_shape(zeros, ("I32",), groups, rows // _PER_WORD)
    check_shape(scales, ("F16", "BF16", "F32"), groups, rows)
    check_columns(weight, columns, groups)
    form = planned_format(4, has_zeros=True)
    return [BuiltTensor(f"{stem}.weight", (rows, columns), form, sources, _convert)]


def _convert(arrays: Sequence[Array], begin: int, end: int) -> tuple[Format, Bytes]:
    weight, zeros, scales = arrays

    def codes(first: int, end_row: int) -> Bytes:
        return to_pairs(np.ascontiguousarray(_outputs(weight, begin + first, begin + end_row).T))

    return to_blocks(
        Integers(
            4,
            np.ascontiguousarray(scales[:, begin:end].T, np.float32),
            codes,
            zeros=np.ascontiguousarray(_outputs(zeros, begin, end).T, np.float32),
        )
    )


def _outputs(words: Array, begin: int, end: int) -> Array:
    """[inputs, words] → [inputs, outputs from `begin` to `end`]."""
    first = begin // _PER_WORD
    each = nibbles(words[:, first : -(-end // _PER_WORD)], 4)[..., _INDICES]
    return each.reshape(len(words), -1)[:, begin - first * _PER_WORD : end - first * _PER_WORD]
