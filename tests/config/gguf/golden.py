"""Values of blocks as the format's own Python package computes them.

    python tests/config/gguf/golden.py

prints the table of `test_dequantize.py`; it needs the package `gguf`.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import numpy.typing as npt

from histrio.config.gguf.block_types import BLOCK_TYPES
from histrio.config.gguf.dequantize import DEQUANTIZED_TYPES

NUM_BLOCKS = 50


def raw_blocks(block_type: int) -> npt.NDArray[np.uint8]:
    """Bytes that are the same everywhere, for blocks of this format."""
    num_bytes = NUM_BLOCKS * BLOCK_TYPES[block_type].block_bytes
    return np.frombuffer(random.Random(block_type).randbytes(num_bytes), np.uint8)


def digest(values: npt.NDArray[Any]) -> str:
    """Of all bits; what is no number counts as zero, because its bits are not told."""
    plain = np.where(np.isnan(values), np.float32(0), values).astype("<f4")
    return hashlib.sha256(plain.tobytes()).hexdigest()[:16]


def main() -> None:
    """Print the table."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    for block_type in sorted(DEQUANTIZED_TYPES):
        rows = raw_blocks(block_type).copy().reshape(NUM_BLOCKS, -1)
        with np.errstate(all="ignore"):
            values = dequantize(rows, GGMLQuantizationType(block_type)).reshape(-1)
        shown = [float(each) for each in values[3:6]]
        print(f'    "{BLOCK_TYPES[block_type].name}": ("{digest(values)}", {shown}),')


if __name__ == "__main__":
    main()
