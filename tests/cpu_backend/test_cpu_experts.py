"""Experts in stacks: gpt-oss in MXFP4 as transformers reads it, and MLX's as mlx-lm writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM
from transformers.utils.quantization_config import Mxfp4Config

from histrio.testing.gguf_models import read_float_tensors
from histrio.testing.models import write_safetensors
from histrio_cpu.experts import unstacked_name
from histrio_torch.testing import logits_error, refer
from histrio_torch.testing.families import make_model_of
from tests.cpu_backend.conftest import prompt
from tests.cpu_backend.test_cpu_families import logits_of
from tests.cpu_backend.test_cpu_quantized import ROUNDED_INPUTS, dequantized

GPT_OSS = {"hidden_size": 64, "intermediate_size": 96, "num_local_experts": 4, "num_experts_per_tok": 2}


@pytest.fixture
def mxfp4(tmp_path: Path) -> Path:
    """A tiny gpt-oss whose experts are random codes and exponents, in the layout of the published ones."""
    make_model_of("gpt_oss", tmp_path, **GPT_OSS)
    random = np.random.default_rng(3)
    written: dict[str, Any] = {}
    for name, tensor in read_float_tensors(tmp_path / "model.safetensors").items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            written[name] = tensor
            continue
        experts, inputs, outputs = tensor.shape
        written[f"{name}_blocks"] = random.integers(0, 256, (experts, outputs, inputs // 32, 16), np.uint8)
        written[f"{name}_scales"] = random.integers(119, 123, (experts, outputs, inputs // 32), np.uint8)
    write_safetensors(tmp_path / "model.safetensors", written)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def by_transformers(folder: Path) -> Any:
    settings = Mxfp4Config(dequantize=True)
    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32", quantization_config=settings).eval()


def test_experts_in_mxfp4_are_those_of_transformers_to_the_bit(mxfp4: Path) -> None:
    model, found = by_transformers(mxfp4), dequantized(mxfp4)
    for layer, block in enumerate(model.model.layers):
        experts = block.mlp.experts
        for expert in range(4):
            stem = f"model.layers.{layer}.mlp.experts.{expert}"
            gate_up, down = (each[expert].T.detach().numpy() for each in (experts.gate_up_proj, experts.down_proj))
            assert np.array_equal(found[f"{stem}.gate_proj.weight"], gate_up[0::2])
            assert np.array_equal(found[f"{stem}.up_proj.weight"], gate_up[1::2])
            assert np.array_equal(found[f"{stem}.down_proj.weight"], down)
            assert not np.array_equal(found[f"{stem}.up_proj.weight"], gate_up[0::2])


def test_logits_of_experts_in_mxfp4_are_those_of_transformers(mxfp4: Path) -> None:
    reference = refer(by_transformers(mxfp4).float(), prompt(1, 21), 1)
    error = logits_error(logits_of(str(mxfp4), reference.ids), reference.logits)
    data = bytearray((mxfp4 / "model.safetensors").read_bytes())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    begin, end = header["model.layers.1.mlp.experts.down_proj_scales"]["data_offsets"]
    first = 8 + int.from_bytes(data[:8], "little")
    data[first + begin : first + end] = bytes(byte + 4 for byte in data[first + begin : first + end])
    (mxfp4 / "model.safetensors").write_bytes(data)

    assert error <= ROUNDED_INPUTS
    assert logits_error(logits_of(str(mxfp4), reference.ids), reference.logits) > 3 * ROUNDED_INPUTS


@pytest.mark.parametrize("model_type", ["qwen3_moe", "mixtral"])
@pytest.mark.parametrize("bits", [0, 4, 8])
def test_experts_as_mlx_stacks_them(model_type: str, bits: int, tmp_path: Path) -> None:
    mx: Any = pytest.importorskip("mlx.core")
    settings = {"num_experts" if model_type == "qwen3_moe" else "num_local_experts": 4, "num_experts_per_tok": 2}
    make_model_of(model_type, tmp_path, hidden_size=64, intermediate_size=96, moe_intermediate_size=96, **settings)
    tensors = read_float_tensors(tmp_path / "model.safetensors")
    written: dict[str, Any] = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    plain: dict[str, Any] = dict(written)
    for layer in range(3):
        stem = f"model.layers.{layer}.{'mlp' if model_type == 'qwen3_moe' else 'block_sparse_moe'}"
        for part in ("gate_proj", "up_proj", "down_proj"):
            names = [unstacked_name(f"{stem}.switch_mlp.{part}", expert) + ".weight" for expert in range(4)]
            stack = mx.array(np.stack([tensors[name] for name in names]))
            pieces = mx.quantize(stack, 32, bits) if bits else (stack,)
            values = mx.dequantize(*pieces, 32, bits) if bits else stack
            keys = ("weight", "scales", "biases")
            written |= {
                f"{stem}.switch_mlp.{part}.{key}": np.array(each) for key, each in zip(keys, pieces, strict=False)
            }
            plain |= dict(zip(names, np.array(values), strict=True))
    config = json.loads((tmp_path / "config.json").read_text())
    if bits:
        (tmp_path / "config.json").write_text(json.dumps(config | {"quantization": {"group_size": 32, "bits": bits}}))
    write_safetensors(tmp_path / "model.safetensors", written)
    found = dequantized(tmp_path)

    assert found.keys() == plain.keys()
    assert all(np.array_equal(found[name], plain[name]) for name in plain)
    assert any(not np.array_equal(plain[name], tensors[name]) for name in plain) == bool(bits)
