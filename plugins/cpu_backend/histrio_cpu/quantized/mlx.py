"""MLX: words of 32 bits packed along the inputs, with a scale and a bias for each group; experts in one tensor.

The width and the groups follow from the shapes, since each layer may have its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from histrio.errors import UnsupportedModel
from histrio_cpu.abi import Format
from histrio_cpu.experts import unstacked_name
from histrio_cpu.quantized.blocks import GROUP, Integers, planned_format, to_blocks
from histrio_cpu.quantized.mxfp4 import to_mxfp4
from histrio_cpu.quantized.settings import Settings
from histrio_cpu.quantized.tensor import Array, BuiltTensor, Pieces, check_columns, check_shape, matrix_shape, take
from histrio_cpu.weights import Bytes, MappedTensor

__all__ = ["assemble"]

_GROUP_SIZE = 64
"""Where config.json names none."""


def assemble(stem: str, pieces: Pieces, settings: Settings) -> list[BuiltTensor]:
    """The matrix of the pieces, or one for each expert. Raises `UnsupportedModel` and `ModelError`."""
    if "weight" not in pieces or "scales" not in pieces:
        return []

    if settings.mode not in ("affine", "mxfp4"):
        raise UnsupportedModel(f"its weights are quantized by MLX as {settings.mode[:20]!r}; affine and mxfp4 are read")
    names = ("weight", "scales", "biases") if settings.mode == "affine" else ("weight", "scales")
    sources = take(stem, pieces, names)
    if len(sources[0].shape) != 3:
        return [_matrix(f"{stem}.weight", sources, settings)]

    count = sources[0].shape[0]
    for source in sources:
        check_shape(source, (source.stored_as,), count, *source.shape[1:])
    return [
        _matrix(f"{unstacked_name(stem, expert)}.weight", tuple(source.nth(expert) for source in sources), settings)
        for expert in range(count)
    ]


def _matrix(name: str, sources: tuple[MappedTensor, ...], settings: Settings) -> BuiltTensor:
    weight, scales = sources[:2]
    rows, num_words = matrix_shape(weight)
    groups, is_mxfp4 = matrix_shape(scales)[1], settings.mode == "mxfp4"
    size = GROUP if is_mxfp4 else settings.group_size or _GROUP_SIZE
    columns = groups * max(size, 1)
    bits = num_words * 32 // columns
    if bits not in (4, 8) or (is_mxfp4 and bits != 4):
        raise UnsupportedModel(
            f"{name[:80]} has {bits} bits for each weight, in groups of {size}; 4 and 8 are computed with"
        )
    check_shape(weight, ("U32",), rows, columns * bits // 32)
    check_columns(weight, columns, groups)
    if is_mxfp4:
        check_shape(scales, ("U8",), rows, groups)
        return BuiltTensor(name, (rows, columns), Format.MXFP4, sources, _convert_mxfp4)
    for each in sources[1:]:
        check_shape(each, ("F16", "BF16", "F32"), rows, groups)
    form = planned_format(bits, has_minima=True)
    return BuiltTensor(name, (rows, columns), form, sources, partial(_convert, bits))


def _convert(bits: int, arrays: Sequence[Array], begin: int, end: int) -> tuple[Format, Bytes]:
    weight, scales, biases = (array[begin:end] for array in arrays)

    def codes(first: int, end_row: int) -> Bytes:
        return np.ascontiguousarray(weight[first:end_row]).view(np.uint8)

    return to_blocks(Integers(bits, scales, codes, minima=biases))


def _convert_mxfp4(arrays: Sequence[Array], begin: int, end: int) -> tuple[Format, Bytes]:
    weight, scales = (array[begin:end] for array in arrays)
    return Format.MXFP4, to_mxfp4(np.ascontiguousarray(weight).view(np.uint8), scales)
