"""GPTQ: words of 32 bits packed along the inputs, scales and zero points [groups, outputs].

Files of the older kind (`checkpoint_format` "gptq") store zero points less one. With `desc_act` each input names its
group, and neighbours belong to different ones: such weights are rounded to float16, as the format's own kernels do.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from histrio.errors import ModelError, UnsupportedModel
from histrio_cpu.abi import Format
from histrio_cpu.quantized.blocks import Integers, planned_format, to_blocks
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


def assemble(stem: str, pieces: Pieces, settings: Settings) -> list[BuiltTensor]:
    """The matrix of the pieces. Raises `UnsupportedModel` and `ModelError`."""
    if "qweight" not in pieces:
        return []

    bits = width(settings.bits, (4, 8), "GPTQ")
    version = settings.checkpoint_format
    if version not in ("gptq", "gptq_v2"):
        raise UnsupportedModel(f"its GPTQ weights are in the format {version[:20]!r}; gptq and gptq_v2 are read")
    weight, zeros, scales = sources = take(stem, pieces, ("qweight", "qzeros", "scales"))
    group_of_input = pieces.pop("g_idx", None)
    per_word = 32 // bits
    words, rows = matrix_shape(weight)
    columns, groups = words * per_word, matrix_shape(scales)[0]
    check_shape(weight, ("I32",), columns // per_word, rows)
    check_shape(zeros, ("I32",), groups, -(-rows // per_word))
    check_shape(scales, ("F16", "BF16", "F32"), groups, rows)
    check_columns(weight, columns, groups)
    convert = partial(_convert, bits, 1 if version == "gptq" else 0)
    is_permuted = settings.desc_act and group_of_input is not None and groups > 1
    form = Format.F16 if is_permuted else planned_format(bits, has_zeros=not settings.sym)
    if group_of_input is not None:
        check_shape(group_of_input, ("I32",), columns)
        sources = (*sources, group_of_input)
    return [BuiltTensor(f"{stem}.weight", (rows, columns), form, sources, convert)]


def _convert(bits: int, added: int, arrays: Sequence[Array], begin: int, end: int) -> tuple[Format, Bytes]:
    weight, zeros, scales = arrays[:3]
    columns, groups = weight.shape[0] * (32 // bits), len(scales)
    mask = 2**bits - 1
    zero_points = (nibbles(zeros, bits).reshape(groups, -1)[:, begin:end] + np.uint8(added)) & mask
    parts = {
        "scales": np.ascontiguousarray(scales[:, begin:end].T, np.float32),
        "zeros": np.ascontiguousarray(zero_points.T, np.float32),
    }

    def codes(first: int, end_row: int) -> Bytes:
        return np.ascontiguousarray(weight[:, begin + first : begin + end_row].T).view(np.uint8)

    integers = Integers(bits, codes=codes, **parts)
    group_of_input = arrays[3] if len(arrays) > 3 else None
    if group_of_input is None or np.array_equal(group_of_input, np.arange(columns) // (columns // groups)):
        return to_blocks(integers)
    if np.any((group_of_input < 0) | (group_of_input >= groups)):
        raise ModelError(f"g_idx names groups that are not there: there are {groups}")
    return Format.F16, _halves(integers, group_of_input, end - begin)


def _halves(integers: Integers, group_of_input: Array, num_rows: int) -> Bytes:
    """The values in float16, each input with the scale and the zero of its own group."""
    assert integers.zeros is not None
    values = np.empty((num_rows, len(group_of_input)), np.float16)
    for row in range(num_rows):
        code = integers.codes(row, row + 1)[0]
        whole = np.stack([code & 15, code >> 4], axis=-1).reshape(-1) if integers.bits == 4 else code
        values[row] = integers.scales[row][group_of_input] * (whole - integers.zeros[row][group_of_input])
    return values.reshape(-1).view(np.uint8)
