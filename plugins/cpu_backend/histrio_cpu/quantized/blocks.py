"""Integers with scales of their groups, as blocks of 32 that the native library packs.

A value is scale · (code - zero), or scale · code + minimum. Of the blocks that hold exactly these values the smallest
are taken: scales in float16 where each of them is a float16 number, else in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histrio_cpu.abi import Format
from histrio_cpu.weights import Bytes

__all__ = ["GROUP", "Floats", "Integers", "planned_format", "put_halves", "scaled_blocks", "to_blocks", "to_pairs"]

Floats = npt.NDArray[np.float32]

GROUP = 32
"""Values of a block."""
_ROWS_AT_ONCE = 128
"""So that what is made of them stays in the cache."""


@dataclass(frozen=True)
class Integers:
    """The rows of a matrix, its inputs in equal groups."""

    bits: int
    """4 or 8."""
    scales: Floats
    """[rows, groups]."""
    codes: Callable[[int, int], Bytes]
    """The unsigned codes of the rows from … to …: of 8 bits [rows, columns], of 4 bits [rows, columns / 2], the lower
    half of a byte first."""
    zeros: Floats | None = None
    """[rows, groups], whole numbers; None: the middle of the codes, or minima instead."""
    minima: Floats | None = None
    """[rows, groups]."""


def planned_format(bits: int, *, has_zeros: bool = False, has_minima: bool = False) -> Format:
    """The blocks that integers become if their scales are float16 numbers, as they nearly always are."""
    if bits == 4:
        return Format.U4_ZERO if has_zeros else Format.Q4_1 if has_minima else Format.Q4_0
    return Format.U8_WIDE if has_zeros else Format.U8_MIN if has_minima else Format.Q8_0


def to_blocks(integers: Integers) -> tuple[Format, Bytes]:
    """The blocks of all rows, one after the other, and their format."""
    form, heads, is_signed = _heads(integers)
    num_rows, num_groups = integers.scales.shape
    first = integers.codes(0, 1)
    columns = first.shape[1] * (2 if integers.bits == 4 else 1)
    blocks_per_group = columns // GROUP // num_groups
    head_bytes, num_blocks = heads.shape[-1], columns // GROUP
    code_bytes = GROUP * integers.bits // 8
    blocks = np.empty((num_rows, num_blocks, head_bytes + code_bytes), np.uint8)
    for begin in range(0, num_rows, _ROWS_AT_ONCE):
        rows = slice(begin, min(begin + _ROWS_AT_ONCE, num_rows))
        codes = integers.codes(rows.start, rows.stop).reshape(-1, num_blocks, code_bytes)
        blocks[rows, :, :head_bytes] = np.repeat(heads[rows], blocks_per_group, axis=1)
        if integers.bits == 4:
            put_halves(codes, blocks[rows, :, head_bytes:])
        else:
            blocks[rows, :, head_bytes:] = codes ^ 0x80 if is_signed else codes
    return form, blocks.reshape(-1)


def scaled_blocks(codes: Bytes, scales: Floats) -> Bytes:
    """Bytes [rows, columns] of numbers in 8 bits behind their factors [rows, columns / 32] in float32."""
    rows, columns = codes.shape
    blocks = np.empty((rows, columns // GROUP, 4 + GROUP), np.uint8)
    blocks[:, :, :4] = np.ascontiguousarray(scales, np.float32)[..., None].view(np.uint8)
    blocks[:, :, 4:] = codes.reshape(rows, -1, GROUP)
    return blocks.reshape(-1)


def to_pairs(codes: Bytes) -> Bytes:
    """Codes of 4 bits, one in a byte, two in a byte."""
    return codes[:, 0::2] | (codes[:, 1::2] << np.uint8(4)).astype(np.uint8)


def _heads(integers: Integers) -> tuple[Format, Bytes, bool]:
    """Format, what stands before the codes of each group, and whether 8-bit codes are signed."""
    scales, minima, zeros = integers.scales, integers.minima, integers.zeros
    middle = 2 ** (integers.bits - 1)
    if zeros is not None and np.all(zeros == middle):
        zeros = None
    if zeros is not None and integers.bits == 8:
        minima, zeros = -scales * zeros, None
    has_halves = _are_halves(scales) and (minima is None or _are_halves(minima))
    if minima is not None:
        narrow, wide = (Format.Q4_1, Format.U4_WIDE) if integers.bits == 4 else (Format.U8_MIN, Format.U8_WIDE)
        return (narrow, _halves(scales, minima), False) if has_halves else (wide, _singles(scales, minima), False)
    if zeros is not None:
        if has_halves:
            return Format.U4_ZERO, _halves(scales, zeros), False
        return Format.U4_WIDE, _singles(scales, -scales * zeros), False
    if integers.bits == 8:
        return (Format.Q8_0, _halves(scales), True) if has_halves else (Format.I8_WIDE, _singles(scales), True)
    return (
        (Format.Q4_0, _halves(scales), False) if has_halves else (Format.U4_WIDE, _singles(scales, -8 * scales), False)
    )


def _are_halves(values: Floats) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.array_equal(values.astype(np.float16).astype(np.float32), values))


def _halves(*each: Floats) -> Bytes:
    return np.stack(each, axis=-1).astype(np.float16).view(np.uint8)


def _singles(*each: Floats) -> Bytes:
    return np.stack(each, axis=-1).view(np.uint8)


def put_halves(pairs: Bytes, blocks: Bytes) -> None:
    """Neighbours in a byte → code i and code 16 + i in byte i."""
    first, second = pairs[..., : GROUP // 4], pairs[..., GROUP // 4 :]
    blocks[..., 0::2] = first & 15 | second << 4
    blocks[..., 1::2] = first >> 4 | second & 0xF0
