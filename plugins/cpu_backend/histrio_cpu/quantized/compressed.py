"""compressed-tensors: integers packed along the inputs, integers in 8 bits, or 8-bit floats, with their scales."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from histrio.errors import ModelError, UnsupportedModel
from histrio_cpu.abi import Format
from histrio_cpu.quantized import fp8
from histrio_cpu.quantized.blocks import Integers, planned_format, to_blocks
from histrio_cpu.quantized.settings import Settings
from histrio_cpu.quantized.tensor import Array, BuiltTensor, Pieces, check_columns, check_shape, matrix_shape, nibbles
from histrio_cpu.weights import Bytes

__all__ = ["assemble"]

_FLOATS = ("BF16", "F16", "F32")
_OF_INPUTS = ("input_scale", "input_zero_point")
"""How inputs would be rounded; the library rounds them itself, in groups of 32."""


def assemble(stem: str, pieces: Pieces, settings: Settings) -> list[BuiltTensor]:
    """The matrix of the pieces. Raises `UnsupportedModel` and `ModelError`."""
    if "weight_packed" in pieces:
        return [_packed(stem, pieces, _bits_of(settings))]

    weight = pieces.get("weight")
    if weight is not None and weight.stored_as == "I8" and "weight_scale" in pieces:
        return [_bytes(stem, pieces)]

    return fp8.assemble(stem, pieces, settings)


def _bits_of(settings: Settings) -> int:
    """Of packed weights: the headers do not say it."""
    schemes = [each.weights for each in settings.config_groups.values() if each.weights is not None]
    kinds = {(each.num_bits, each.type[:20]) for each in schemes}
    if kinds in ({(4, "int")}, {(8, "int")}):
        return 4 if (4, "int") in kinds else 8

    raise UnsupportedModel(
        "its weights are packed as " + ", ".join(sorted(f"{bits} bits of {kind}" for bits, kind in kinds))[:80] + "; "
        "integers of 4 or of 8 bits are computed with"
    )


def _packed(stem: str, pieces: Pieces, bits: int) -> BuiltTensor:
    if "weight_g_idx" in pieces:
        raise UnsupportedModel(f"the inputs of {stem[:80]} are in groups of another order (weight_g_idx)")
    weight, scale, zeros = (
        pieces.pop("weight_packed"),
        pieces.pop("weight_scale", None),
        pieces.pop("weight_zero_point", None),
    )
    pieces.pop("weight_shape", None)
    if scale is None:
        raise ModelError(f"{weight.file}: {stem[:80]} has packed weights without scales")

    rows, words = matrix_shape(weight)
    columns = words * 32 // bits
    groups = scale.shape[-1] if len(scale.shape) == 2 else 1
    check_shape(weight, ("I32",), *weight.shape)
    check_shape(scale, _FLOATS, *((rows, groups) if len(scale.shape) == 2 else (1,)))
    check_columns(weight, columns, groups)
    sources = [weight, scale]
    if zeros is not None:
        check_shape(zeros, ("I32",), -(-rows * bits // 32), groups)
        sources.append(zeros)
    form = planned_format(bits, has_zeros=zeros is not None)
    return BuiltTensor(f"{stem}.weight", (rows, columns), form, tuple(sources), partial(_convert_packed, bits))


def _convert_packed(bits: int, arrays: Sequence[Array], begin: int, end: int) -> tuple[Format, Bytes]:
    weight, scales = arrays[0][begin:end], _by_row(arrays[1], len(arrays[0]))[begin:end]
    zeros = None
    if len(arrays) > 2:
        whole = nibbles(np.ascontiguousarray(arrays[2].T), bits).reshape(arrays[2].shape[1], -1)
        zeros = np.ascontiguousarray(whole.T[begin:end], np.float32)

    def codes(first: int, end_row: int) -> Bytes:
        return np.ascontiguousarray(weight[first:end_row]).view(np.uint8)

    return to_blocks(Integers(bits, scales, codes, zeros=zeros))


def _bytes(stem: str, pieces: Pieces) -> BuiltTensor:
    """One byte for each weight, with a scale for each row or for all."""
    weight, scale = pieces.pop("weight"), pieces.pop("weight_scale")
    for name in _OF_INPUTS:
        pieces.pop(name, None)
    if "weight_zero_point" in pieces:
        raise UnsupportedModel(f"the weights of {stem[:80]} have zero points (weight_zero_point)")

    rows, columns = matrix_shape(weight)
    check_columns(weight, columns, 1)
    check_shape(scale, _FLOATS, *((1,) if scale.shape == (1,) else (rows, 1)))
    return BuiltTensor(f"{stem}.weight", (rows, columns), planned_format(8), (weight, scale), _convert_bytes)


def _convert_bytes(arrays: Sequence[Array], begin: int, end: int) -> tuple[Format, Bytes]:
    weight, scales = arrays[0][begin:end], _by_row(arrays[1], len(arrays[0]))[begin:end]

    def codes(first: int, end_row: int) -> Bytes:
        return weight[first:end_row].view(np.uint8) ^ np.uint8(0x80)

    return to_blocks(Integers(8, scales, codes))


def _by_row(scales: Array, rows: int) -> Array:
    return scales if scales.ndim == 2 else np.broadcast_to(scales.reshape(1, 1), (rows, 1))
