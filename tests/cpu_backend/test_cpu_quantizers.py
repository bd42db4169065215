"""The written checkpoints are read as the quantizers' own packages read them, where those can be imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

from histrio.testing.gguf_models import read_float_tensors
from histrio.testing.quantized_models import LAYOUTS
from tests.cpu_backend.test_cpu_quantized import write

STEM = "model.layers.1.mlp.up_proj"


def pieces_and_values(tmp_path: Path, layout: str) -> tuple[dict[str, torch.Tensor], Any]:
    """Last part of the name → stored tensor, and the values of the matrix in the model that it means."""
    folder, plain = write(tmp_path, layout)
    tensors = load_file(folder / "model.safetensors")
    pieces = {name.removeprefix(f"{STEM}."): each for name, each in tensors.items() if name.startswith(f"{STEM}.")}
    return pieces, read_float_tensors(plain / "model.safetensors")[f"{STEM}.weight"]


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name.startswith("mlx")])
def test_values_are_those_of_mlx(layout: str, tmp_path: Path) -> None:
    mx: Any = pytest.importorskip("mlx.core")
    pieces, expected = pieces_and_values(tmp_path, layout)
    settings = LAYOUTS[layout].settings
    weight = mx.array(pieces["weight"].numpy())
    scales, biases = (mx.array(pieces[name].float().numpy()) for name in ("scales", "biases"))
    values = np.array(mx.dequantize(weight, scales, biases, settings["group_size"], settings["bits"]))

    assert np.array_equal(values, expected)
    assert not np.array_equal(np.roll(values, 1, axis=1), expected)


@pytest.mark.parametrize("layout", ["fp8_blocks", "fp8_whole", "fp8_rows"])
def test_values_are_those_of_transformers_fp8(layout: str, tmp_path: Path) -> None:
    pieces, expected = pieces_and_values(tmp_path, layout)
    weight, scale = (
        next(each for name, each in pieces.items() if ("scale" in name) == is_scale) for is_scale in (0, 1)
    )
    down, across = LAYOUTS[layout].settings.get("weight_block_size", (1, 1))
    rows, columns = weight.shape[0] // down * down, weight.shape[1] // across * across  # it takes whole blocks only
    whole = scale[: rows // down, : columns // across] if scale.ndim == 2 and layout == "fp8_blocks" else scale
    values = Fp8Dequantize(None)._dequantize_one(
        weight[:rows, :columns], whole.view(-1, 1) if whole.ndim == 1 else whole
    )

    assert np.array_equal(values.float().numpy(), expected[:rows, :columns])


@pytest.mark.parametrize("layout", ["w4a16", "w4a16_zeros", "w8a16"])
def test_values_are_those_of_compressed_tensors(layout: str, tmp_path: Path) -> None:
    compressors: Any = pytest.importorskip("compressed_tensors.compressors")
    quantization: Any = pytest.importorskip("compressed_tensors.quantization")
    pieces, expected = pieces_and_values(tmp_path, layout)
    scheme = dict(LAYOUTS[layout].settings["config_groups"]["group_0"]["weights"])
    arguments = quantization.QuantizationScheme(targets=["Linear"], weights=quantization.QuantizationArgs(**scheme))
    state = {name: each.float() if name == "weight_scale" else each for name, each in pieces.items()}
    values = compressors.PackedQuantizationCompressor.decompress(state, arguments)["weight"]

    assert np.array_equal(values.float().numpy(), expected)


def test_values_are_those_of_autoawq(tmp_path: Path) -> None:
    packing: Any = pytest.importorskip("awq.utils.packing_utils")
    pieces, expected = pieces_and_values(tmp_path, "awq")
    scales = pieces["scales"].float()
    values = packing.dequantize_gemm(pieces["qweight"], pieces["qzeros"], scales, 4, 32)

    assert np.array_equal(values.T.float().numpy(), expected)
