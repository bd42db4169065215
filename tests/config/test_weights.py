"""Bytes per layer from safetensors headers, compared with the tensors that were written."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from histrio.config.weights import read_layer_bytes, sum_layer_bytes
from histrio.errors import ModelError

SHAPES = {
    "model.embed_tokens.weight": (10, 4),
    "model.layers.0.mlp.up_proj.weight": (8, 4),
    "model.layers.0.input_layernorm.weight": (4,),
    "model.layers.1.mlp.up_proj.weight": (8, 4),
    "model.norm.weight": (4,),
    "lm_head.weight": (10, 4),
    "vision_tower.layers.0.weight": (100, 100),
}
FLOAT = 4


def write(folder: Path, names: list[str], file: str = "model.safetensors") -> None:
    save_file({name: np.zeros(SHAPES[name], np.float32) for name in names}, folder / file)


def test_every_stage_holds_its_layers_and_the_ends(tmp_path: Path) -> None:
    names = list(SHAPES)
    write(tmp_path, names[:3], "model-00001-of-00002.safetensors")
    write(tmp_path, names[3:], "model-00002-of-00002.safetensors")
    sizes = read_layer_bytes(tmp_path, 2)
    assert sizes.of_range(0, 1) == FLOAT * (40 + 32 + 4)
    assert sizes.of_range(1, 2) == FLOAT * (32 + 4 + 40)
    assert sizes.of_range(0, 2) == sizes.of_range(0, 1) + sizes.of_range(1, 2)


def test_a_tied_embedding_is_held_at_both_ends_but_once_if_they_are_one_stage(tmp_path: Path) -> None:
    write(tmp_path, [name for name in SHAPES if name != "lm_head.weight"])
    sizes = read_layer_bytes(tmp_path, 2)
    assert sizes.is_tied
    assert sizes.of_range(1, 2) == FLOAT * (32 + 4 + 40)
    assert sizes.of_range(0, 2) == FLOAT * (40 + 36 + 32 + 4)


def test_layer_numbers_are_read_from_several_naming_schemes() -> None:
    sizes = sum_layer_bytes([("transformer.h.1.attn.weight", 5), ("gpt_neox.layers.0.x", 3), ("wte.weight", 2)], 2)
    assert (sizes.layers, sizes.embedding) == ([3, 5], 2)


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"", "not a safetensors file"),
        (b"<html>not found</html>", "not a safetensors file"),
        (struct.pack("<Q", 4) + b"{]  ", "broken safetensors header"),
        (struct.pack("<Q", 10) + b'{"a": 3}  ', "broken safetensors header"),
        (struct.pack("<Q", 500) + b'{"a"', "is cut short: it ends within its header"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes, fragment: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=f"model.safetensors.*{fragment}"):
        read_layer_bytes(tmp_path, 1)
