"""Writes GGUF files for tests, and blocks of its two simplest formats."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

__all__ = ["StoredBlocks", "blocks", "gguf_bytes", "write_gguf"]

F32, F16, Q4_0, Q8_0, BF16 = 0, 1, 2, 8, 30
_NUMBERS = {"u1": 0, "i1": 1, "u2": 2, "i2": 3, "u4": 4, "i4": 5, "f4": 6, "b1": 7, "u8": 10, "i8": 11, "f8": 12}
"""Kind and bytes of numpy's numbers → type of a metadata value."""
_STRING, _ARRAY = 8, 9


class StoredBlocks(msgspec.Struct, frozen=True):
    """A tensor as it stands in a file."""

    block_type: int
    """Number of its format."""
    shape: tuple[int, ...]
    """Rows first."""
    data: bytes


def blocks(values: npt.NDArray[Any], block_type: int) -> StoredBlocks:
    """`values` in the format `block_type`: F32, F16, BF16, Q8_0 or Q4_0. Quantised rows are multiples of 32 long."""
    values = np.ascontiguousarray(values, np.float32)
    match block_type:
        case 0:
            data = values.tobytes()
        case 1:
            data = values.astype(np.float16).tobytes()
        case 30:
            data = (values.view(np.uint32) + 0x8000 >> 16).astype(np.uint16).tobytes()
        case _:
            data = _quantised(values.reshape(-1, 32), block_type)
    return StoredBlocks(block_type, values.shape, data)


def write_gguf(file: Path, metadata: Mapping[str, Any], tensors: Mapping[str, StoredBlocks], version: int = 3) -> Path:
    """Write one file, and return its path."""
    file.write_bytes(gguf_bytes(metadata, tensors, version))
    return file


def gguf_bytes(metadata: Mapping[str, Any], tensors: Mapping[str, StoredBlocks], version: int = 3) -> bytes:
    """A whole file. Metadata are truth values, numbers (32 bits, or 64 where they need them), strings, arrays of numpy,
    lists of strings or of arrays; a `general.alignment` holds for the data too."""
    alignment = int(metadata.get("general.alignment", 32))
    header = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, value in metadata.items():
        number, content = _value(value)
        header += _string(key) + struct.pack("<I", number) + content
    data = bytearray()
    for name, tensor in tensors.items():
        data += bytes(-len(data) % alignment)
        sizes = struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape))
        header += _string(name) + struct.pack("<I", len(tensor.shape)) + sizes
        header += struct.pack("<IQ", tensor.block_type, len(data))
        data += tensor.data
    return header + bytes(-len(header) % alignment) + bytes(data)


def _value(value: Any) -> tuple[int, bytes]:
    """Number of its type, and its bytes."""
    match value:
        case bool():
            return 7, struct.pack("<B", value)
        case int():
            return (4, struct.pack("<I", value)) if 0 <= value < 2**32 else (11, struct.pack("<q", value))
        case float():
            return 6, struct.pack("<f", value)
        case str():
            return _STRING, _string(value)
        case np.ndarray():
            number = _NUMBERS[f"{value.dtype.kind}{value.dtype.itemsize}"]
            return _ARRAY, struct.pack("<IQ", number, len(value)) + value.tobytes()
    items = [_value(each) for each in value]
    number = items[0][0] if items else _STRING
    return _ARRAY, struct.pack("<IQ", number, len(items)) + b"".join(content for _, content in items)


def _string(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def _quantised(values: npt.NDArray[np.float32], block_type: int) -> bytes:
    """Blocks of 32 values: a scale, and integers nearest to the values."""
    largest = np.take_along_axis(values, np.abs(values).argmax(axis=1, keepdims=True), axis=1)
    scale = np.abs(largest) / np.float32(127) if block_type == Q8_0 else largest / np.float32(-8)
    steps = np.round(np.divide(values, scale, out=np.zeros_like(values), where=scale != 0))
    if block_type == Q8_0:
        integers = steps.astype(np.int8).view(np.uint8)
    else:
        nibbles = np.clip(steps + 8, 0, 15).astype(np.uint8)
        integers = nibbles[:, :16] | nibbles[:, 16:] << 4
    return np.concatenate([scale.astype(np.float16).view(np.uint8), integers], axis=1).tobytes()
