"""Blocks to float32, with numpy: the reference that kernels are compared with.

A block is a few scales and many small integers: a value is scale · integer, or scale · integer − minimum. The results
are equal bit by bit to those of the format's own Python package, because products and sums come in the same order.
Layouts: https://github.com/ggml-org/ggml (ggml-common.h, ggml-quants.c); MXFP4: OCP Microscaling Formats 1.0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from histrio.config.gguf.block_types import BLOCK_TYPES

__all__ = ["DEQUANTIZED_TYPES", "dequantize"]

Bytes = npt.NDArray[Any]
"""Of uint8."""
Floats = npt.NDArray[Any]
"""Of float32."""

_CHUNK_BLOCKS = 2**14
"""Blocks at a time, so that a large tensor needs little more memory than its result."""
_BITS = np.arange(8, dtype=np.uint8).reshape(8, 1)
_PAIRS = np.array([0, 2, 4, 6], np.uint8).reshape(4, 1)
_IQ4_NL = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
_MXFP4 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
"""E2M1, doubled; the scale is halved."""


def dequantize(data: npt.NDArray[np.uint8], block_type: int) -> npt.NDArray[np.float32]:
    """The values of whole blocks, in a row; `data` are their bytes. `block_type` is one of `DEQUANTIZED_TYPES`."""
    form = BLOCK_TYPES[block_type]
    unpack = _UNPACK[block_type]
    blocks = np.ascontiguousarray(data).reshape(-1, form.block_bytes)
    values = np.empty((len(blocks), form.block_values), np.float32)
    for begin in range(0, len(blocks), _CHUNK_BLOCKS):
        chunk = slice(begin, begin + _CHUNK_BLOCKS)
        values[chunk] = unpack(blocks[chunk]).reshape(-1, form.block_values)
    return values.reshape(-1)


def _halves(data: Bytes) -> Floats:
    """float16 in pairs of bytes → float32."""
    return np.ascontiguousarray(data).view(np.float16).astype(np.float32)


def _nibbles(data: Bytes) -> Bytes:
    """[…, n] → […, 2, n]: the lower four bits of all bytes, then the upper ones."""
    return np.stack([data & 15, data >> 4], axis=-2)


def _signed(values: Bytes, zero: int) -> Floats:
    return values.astype(np.float32) - np.float32(zero)


def _f32(blocks: Bytes) -> Floats:
    return blocks.view(np.float32)


def _f16(blocks: Bytes) -> Floats:
    return blocks.view(np.float16).astype(np.float32)


def _bf16(blocks: Bytes) -> Floats:
    return (blocks.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _q4_0(blocks: Bytes) -> Floats:
    return _halves(blocks[:, :2]) * _signed(_nibbles(blocks[:, 2:]).reshape(-1, 32), 8)


def _q4_1(blocks: Bytes) -> Floats:
    return _halves(blocks[:, :2]) * _signed(_nibbles(blocks[:, 4:]).reshape(-1, 32), 0) + _halves(blocks[:, 2:4])


def _fives(high: Bytes, low: Bytes) -> Bytes:
    """Five bits: the fifth of each value stands in `high` [n, 4], the others in `low` [n, 16]."""
    fifths: Bytes = np.unpackbits(high, axis=1, bitorder="little")
    values: Bytes = _nibbles(low).reshape(-1, 32) | fifths << 4
    return values


def _q5_0(blocks: Bytes) -> Floats:
    return _halves(blocks[:, :2]) * _signed(_fives(blocks[:, 2:6], blocks[:, 6:]), 16)


def _q5_1(blocks: Bytes) -> Floats:
    return _halves(blocks[:, :2]) * _signed(_fives(blocks[:, 4:8], blocks[:, 8:]), 0) + _halves(blocks[:, 2:4])


def _q8_0(blocks: Bytes) -> Floats:
    return blocks[:, 2:].view(np.int8).astype(np.float32) * _halves(blocks[:, :2])


def _crumbs(data: Bytes) -> Bytes:
    """[n, 64] → [n, 256]: two bits each; the values of a byte lie 32 apart."""
    pairs: Bytes = (data.reshape(-1, 2, 1, 32) >> _PAIRS) & 3
    return pairs.reshape(-1, 256)


def _q2_k(blocks: Bytes) -> Floats:
    scales, values = blocks[:, :16], _crumbs(blocks[:, 16:80])
    scale = _halves(blocks[:, 80:82]) * (scales & 15).astype(np.float32)
    minimum = _halves(blocks[:, 82:]) * (scales >> 4).astype(np.float32)
    values = _signed(values, 0).reshape(-1, 16, 16)
    found: Floats = scale[:, :, None] * values - minimum[:, :, None]
    return found


def _q3_k(blocks: Bytes) -> Floats:
    high = (blocks[:, None, :32] >> _BITS & 1).reshape(-1, 256)
    low = _crumbs(blocks[:, 32:96])
    scale_low = _nibbles(blocks[:, 96:104]).reshape(-1, 16)
    scale_high = (blocks[:, None, 104:108] >> _PAIRS & 3).reshape(-1, 16)
    scale = _halves(blocks[:, 108:]) * _signed(scale_low | scale_high << 4, 32)
    return scale[:, :, None] * _signed(low | high << 2, 4).reshape(-1, 16, 16)


def _scales_and_minima(blocks: Bytes) -> tuple[Floats, Floats]:
    """Of Q4_K and Q5_K, [n, 8, 1] each: six bits each, the upper two of the last four spread over the others."""
    first, second, rest = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.concatenate([first & 63, rest & 15 | first >> 6 << 4], axis=1)
    minima = np.concatenate([second & 63, rest >> 4 | second >> 6 << 4], axis=1)
    scale = _halves(blocks[:, :2]) * scales.astype(np.float32)
    minimum = _halves(blocks[:, 2:4]) * minima.astype(np.float32)
    return scale[:, :, None], minimum[:, :, None]


def _q4_k(blocks: Bytes) -> Floats:
    scale, minimum = _scales_and_minima(blocks)
    values = _nibbles(blocks[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    return scale * _signed(values, 0) - minimum


def _q5_k(blocks: Bytes) -> Floats:
    scale, minimum = _scales_and_minima(blocks)
    high = blocks[:, None, 16:48] >> _BITS & 1
    low = _nibbles(blocks[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    return scale * _signed(low | high << 4, 0) - minimum


def _q6_k(blocks: Bytes) -> Floats:
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64)).reshape(-1, 256)
    high = _crumbs(blocks[:, 128:192])
    scale = _halves(blocks[:, 208:]) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    return scale[:, :, None] * _signed(low | high << 4, 32).reshape(-1, 16, 16)


def _iq4_nl(blocks: Bytes) -> Floats:
    return _halves(blocks[:, :2]) * _IQ4_NL[_nibbles(blocks[:, 2:]).reshape(-1, 32)]


def _mxfp4(blocks: Bytes) -> Floats:
    """The scale is a power of two alone, and for the two smallest exponents no normal number."""
    exponent = blocks[:, :1].astype(np.uint32)
    bits = np.where(exponent < 2, np.uint32(0x200000) << exponent, (exponent - np.uint32(1)) << np.uint32(23))
    return bits.astype(np.uint32).view(np.float32) * _MXFP4[_nibbles(blocks[:, 1:]).reshape(-1, 32)]


_UNPACK: dict[int, Callable[[Bytes], Floats]] = {
    0: _f32,
    1: _f16,
    2: _q4_0,
    3: _q4_1,
    6: _q5_0,
    7: _q5_1,
    8: _q8_0,
    10: _q2_k,
    11: _q3_k,
    12: _q4_k,
    13: _q5_k,
    14: _q6_k,
    20: _iq4_nl,
    30: _bf16,
    39: _mxfp4,
}
DEQUANTIZED_TYPES = frozenset(_UNPACK)
"""Numbers of the formats whose values can be read."""
