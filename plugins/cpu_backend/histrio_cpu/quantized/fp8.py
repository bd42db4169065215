"""Weights in 8-bit floats (E4M3), with a scale for the whole, for each row, or for each block of rows and inputs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from histrio.errors import ModelError, UnsupportedModel
from histrio_cpu.abi import Format
from histrio_cpu.quantized.blocks import GROUP, scaled_blocks
from histrio_cpu.quantized.settings import Settings
from histrio_cpu.quantized.tensor import Array, BuiltTensor, Pieces, check_columns, matrix_shape
from histrio_cpu.weights import Bytes, MappedTensor

__all__ = ["assemble"]

_NAN = 0x7F
_FLOATS = ("F32", "BF16", "F16")
_OF_INPUTS = ("input_scale", "input_zero_point", "input_scale_ub", "activation_scale")
"""How inputs would be rounded; here they are not."""


def assemble(stem: str, pieces: Pieces, settings: Settings) -> list[BuiltTensor]:
    """The matrix of the pieces. Raises `UnsupportedModel` and `ModelError`."""
    weight = pieces.get("weight")
    key = next((key for key in ("weight_scale_inv", "weight_scale") if key in pieces), None)
    if weight is None or key is None or weight.stored_as != "F8_E4M3":
        return []

    del pieces["weight"]
    scale = pieces.pop(key)
    for name in _OF_INPUTS:
        pieces.pop(name, None)
    rows, columns = matrix_shape(weight)
    check_columns(weight, columns, 1)
    block = _block_of(scale, rows, columns, settings)
    convert = partial(_convert, weight.name, block)
    return [BuiltTensor(f"{stem}.weight", (rows, columns), Format.F8_E4M3, (weight, scale), convert)]


def _block_of(scale: MappedTensor, rows: int, columns: int, settings: Settings) -> tuple[int, int]:
    """Rows and inputs that share a scale."""
    if scale.stored_as in _FLOATS:
        if scale.shape in ((), (1,), (1, 1)):
            return rows, columns
        if scale.shape in ((rows,), (rows, 1)):
            return 1, columns
        down, across = settings.weight_block_size or (128, 128)
        if min(down, across) > 0 and scale.shape == (-(-rows // down), -(-columns // across)):
            if across % GROUP:
                raise UnsupportedModel(f"{scale.name[:80]} is of blocks of {across} inputs, not of 32, 64, 128 …")
            return down, across

    raise ModelError(
        f"{scale.file}: {scale.name[:80]} is {scale.stored_as} of the shape {list(scale.shape)}, which fits no matrix "
        f"of {rows} by {columns}; fetch the model again"
    )


def _convert(name: str, block: tuple[int, int], arrays: Sequence[Array], begin: int, end: int) -> tuple[Format, Bytes]:
    codes, (down, across) = arrays[0][begin:end], block
    if np.any(codes & _NAN == _NAN):
        raise ModelError(f"{name[:80]} has weights that are no numbers; fetch the model again")
    scales = arrays[1].reshape(-1, -(-codes.shape[1] // across))
    rows, groups = np.arange(begin, end) // down, np.arange(0, codes.shape[1], GROUP) // across
    return Format.F8_E4M3, scaled_blocks(codes, scales[rows][:, groups])
