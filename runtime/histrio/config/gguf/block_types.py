"""The number formats of GGUF: how many values a block has, and how many bytes it takes."""

from __future__ import annotations

import msgspec

__all__ = ["BLOCK_TYPES", "PLAIN_DTYPES", "REMOVED_TYPES", "BlockType"]


class BlockType(msgspec.Struct, frozen=True):
    """One format; a tensor's rows are cut into blocks of it."""

    name: str
    block_values: int
    """Values of one block; the length of a row is a multiple of it."""
    block_bytes: int

    def num_bytes(self, num_values: int) -> int:
        """Bytes of so many values, a multiple of `block_values`."""
        return num_values // self.block_values * self.block_bytes


BLOCK_TYPES = {
    number: BlockType(name, block_values, block_bytes)
    for number, name, block_values, block_bytes in (
        (0, "F32", 1, 4),
        (1, "F16", 1, 2),
        (2, "Q4_0", 32, 18),
        (3, "Q4_1", 32, 20),
        (6, "Q5_0", 32, 22),
        (7, "Q5_1", 32, 24),
        (8, "Q8_0", 32, 34),
        (9, "Q8_1", 32, 40),
        (10, "Q2_K", 256, 84),
        (11, "Q3_K", 256, 110),
        (12, "Q4_K", 256, 144),
        (13, "Q5_K", 256, 176),
        (14, "Q6_K", 256, 210),
        (15, "Q8_K", 256, 292),
        (16, "IQ2_XXS", 256, 66),
        (17, "IQ2_XS", 256, 74),
        (18, "IQ3_XXS", 256, 98),
        (19, "IQ1_S", 256, 50),
        (20, "IQ4_NL", 32, 18),
        (21, "IQ3_S", 256, 110),
        (22, "IQ2_S", 256, 82),
        (23, "IQ4_XS", 256, 136),
        (24, "I8", 1, 1),
        (25, "I16", 1, 2),
        (26, "I32", 1, 4),
        (27, "I64", 1, 8),
        (28, "F64", 1, 8),
        (29, "IQ1_M", 256, 56),
        (30, "BF16", 1, 2),
        (34, "TQ1_0", 256, 54),
        (35, "TQ2_0", 256, 66),
        (39, "MXFP4", 32, 17),
        (40, "NVFP4", 64, 36),
        (41, "Q1_0", 128, 18),
    )
}
"""Number in the file → format."""
REMOVED_TYPES = {
    **dict.fromkeys((4, 5), "Q4_2 or Q4_3"),
    **dict.fromkeys((31, 32, 33), "a rearranged Q4_0"),
    **dict.fromkeys((36, 37, 38), "a rearranged IQ4_NL"),
}
"""Numbers that files had once, and that the format has given up."""
PLAIN_DTYPES = {0: "float32", 1: "float16", 30: "bfloat16"}
"""Formats of one value each, as config.json calls them."""
