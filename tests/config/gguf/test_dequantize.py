"""Blocks of every format have, bit by bit, the values that the format's own Python package gives them.

`golden.py` computed the table. Where the package is installed, it is asked itself.
"""

from __future__ import annotations

import numpy as np
import pytest

from histrio.config.gguf.block_types import BLOCK_TYPES
from histrio.config.gguf.dequantize import DEQUANTIZED_TYPES, dequantize
from histrio.testing.gguf import BF16, F16, F32, Q4_0, Q8_0, blocks
from tests.config.gguf.golden import NUM_BLOCKS, digest, raw_blocks

NUMBERS = {block_type.name: number for number, block_type in BLOCK_TYPES.items()}
GOLDEN = {
    "F32": ("5d5d2d71c3958e79", [-8.523333636676213e21, 4.1243573509439587e26, 1.0649640863824063e-32]),
    "F16": ("a7a91fce09734db3", [-0.0006976127624511719, 3518.0, -158.125]),
    "Q4_0": ("aef572bfb1db06e9", [-0.127716064453125, 0.1702880859375, -0.1702880859375]),
    "Q4_1": ("74b6ebfefa6234d8", [15.208984375, 21.2001953125, 23.197265625]),
    "Q5_0": ("5d4a77e476e34f49", [383.5, 1054.625, -1342.25]),
    "Q5_1": ("9131db2740e0366b", [53.60546875, 51.49609375, 49.123046875]),
    "Q8_0": ("9d9df310d0189298", [105149.0, -59895.0, 125114.0]),
    "Q2_K": ("72993495b5ea1cfd", [-101.3623046875, -101.3623046875, -101.3623046875]),
    "Q3_K": ("a8720d9c72fe0c7d", [-1978368.0, 3956736.0, -989184.0]),
    "Q4_K": ("ab3e8acbafd4a79e", [9835520.0, 11016896.0, 7472768.0]),
    "Q5_K": ("07e14492773f4bdd", [147277.171875, -37.828125, 189367.171875]),
    "Q6_K": ("152d612794973bb9", [-7.183837890625, -13.714599609375, 16.326904296875]),
    "IQ4_NL": ("48fbf2a9c52980b0", [0.00015497207641601562, 8.058547973632812e-05, 8.058547973632812e-05]),
    "BF16": ("4813c9ab8072846e", [-1862270976.0, -40960.0, 2228224.0]),
    "MXFP4": ("a7915408b79dd760", [844424930131968.0, 211106232532992.0, -70368744177664.0]),
}
"""Format → digest of all values, and three of them."""

pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning")


def test_the_table_has_every_format() -> None:
    assert {NUMBERS[name] for name in GOLDEN} == DEQUANTIZED_TYPES


@pytest.mark.parametrize("name", GOLDEN)
def test_values_are_those_of_the_formats_own_package(name: str) -> None:
    values = dequantize(raw_blocks(NUMBERS[name]), NUMBERS[name])
    assert values.dtype == np.float32
    assert len(values) == NUM_BLOCKS * BLOCK_TYPES[NUMBERS[name]].block_values
    assert (digest(values), values[3:6].tolist()) == GOLDEN[name]


@pytest.mark.parametrize("name", GOLDEN)
def test_one_other_bit_of_each_block_makes_another_digest(name: str) -> None:
    block_bytes = BLOCK_TYPES[NUMBERS[name]].block_bytes
    raw = raw_blocks(NUMBERS[name]).copy()
    raw[block_bytes // 2 :: block_bytes] ^= 1
    assert digest(dequantize(raw, NUMBERS[name])) != GOLDEN[name][0]


def test_the_package_says_the_same_where_it_is_installed() -> None:
    quants = pytest.importorskip("gguf.quants", reason="the package gguf is not installed")
    constants = pytest.importorskip("gguf.constants")
    for number in DEQUANTIZED_TYPES:
        rows = raw_blocks(number).copy().reshape(NUM_BLOCKS, -1)
        judged = quants.dequantize(rows, constants.GGMLQuantizationType(number)).reshape(-1)
        assert np.array_equal(dequantize(rows, number), judged, equal_nan=True), BLOCK_TYPES[number].name


@pytest.mark.parametrize("block_type", [F32, F16, BF16, Q8_0, Q4_0])
def test_a_large_tensor_comes_in_pieces_and_is_what_was_written(block_type: int) -> None:
    values = np.sin(np.arange(2**19 + 32, dtype=np.float32)).reshape(-1, 32)
    stored = blocks(values, block_type)
    found = dequantize(np.frombuffer(stored.data, np.uint8), block_type).reshape(values.shape)
    step = {F32: 0, F16: 2**-11, BF16: 2**-8, Q8_0: 0.005, Q4_0: 0.13}[block_type]
    assert float(np.abs(found - values).max()) <= step
    assert float(np.abs(found[::-1] - values).max()) > 0.5
