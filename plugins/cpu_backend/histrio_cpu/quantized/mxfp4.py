"""MXFP4: pairs of E2M1 codes and an exponent for each 32, as gpt-oss has its experts.

`…experts.gate_up_proj_blocks` is [experts, 2 · inner, groups, 16] bytes, gate and up in turns, with `…_scales`
[experts, 2 · inner, groups] and `…_bias` [experts, 2 · inner]; `down_proj` has the same for hidden rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from histrio_cpu.abi import Format
from histrio_cpu.quantized.blocks import GROUP, put_halves
from histrio_cpu.quantized.settings import Settings
from histrio_cpu.quantized.tensor import Array, BuiltTensor, Pieces, check_shape, take
from histrio_cpu.weights import Bytes

__all__ = ["assemble", "to_mxfp4"]

_PAIR_BYTES = GROUP // 2
_ROWS_OF = {"gate_proj": ("gate_up_proj", 0, 2), "up_proj": ("gate_up_proj", 1, 2), "down_proj": ("down_proj", 0, 1)}
"""Part → the tensor that holds it, its first row there, and the step from row to row."""


def to_mxfp4(pairs: Bytes, exponents: Bytes) -> Bytes:
    """Pairs of codes [rows, columns / 2] and exponents [rows, columns / 32] as blocks of GGUF."""
    rows, groups = exponents.shape
    blocks = np.empty((rows, groups, 1 + _PAIR_BYTES), np.uint8)
    blocks[..., 0] = exponents
    put_halves(pairs.reshape(rows, groups, _PAIR_BYTES), blocks[..., 1:])
    return blocks.reshape(-1)


def assemble(stem: str, pieces: Pieces, settings: Settings) -> list[BuiltTensor]:
    """The matrices of all experts. Raises `ModelError`."""
    if "gate_up_proj_blocks" not in pieces:
        return []

    names = ("gate_up_proj", "down_proj")
    stored = {name: take(stem, pieces, (f"{name}_blocks", f"{name}_scales")) for name in names}
    found = []
    for part, (name, first, step) in _ROWS_OF.items():
        blocks, scales = stored[name]
        experts, rows, groups = scales.shape if len(scales.shape) == 3 else (0, 0, 0)
        check_shape(blocks, ("U8",), experts, rows, groups, _PAIR_BYTES)
        check_shape(scales, ("U8",), experts, rows, groups)
        found += [
            BuiltTensor(
                f"{stem}.{expert}.{part}.weight",
                (rows // step, groups * GROUP),
                Format.MXFP4,
                (blocks.nth(expert), scales.nth(expert)),
                partial(_convert, first, step),
            )
            for expert in range(experts)
        ]
    return found


def _convert(first: int, step: int, arrays: Sequence[Array], begin: int, end: int) -> tuple[Format, Bytes]:
    blocks, scales = (array[first::step][begin:end] for array in arrays)
    return Format.MXFP4, to_mxfp4(blocks, scales)
