"""Checkpoints of quantizers: their values to the bit, and logits of transformers' model of these values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from histrio.contracts.backend import StageSpec
from histrio.kit.quantized import CPU_METHODS
from histrio.testing.gguf_models import read_float_tensors
from histrio.testing.quantized_models import LAYOUTS, write_quantized_model
from histrio_cpu.factory import CpuFactory
from histrio_cpu.library import load_library
from histrio_cpu.loader import plan_stage
from histrio_cpu.quantized.layouts import METHODS
from histrio_cpu.weights import MappedFiles, StoredTensor
from histrio_torch.testing import MOST_ERROR, NUM_LAYERS, logits_error, refer
from histrio_torch.testing.families import make_model_of
from tests.cpu_backend.conftest import prompt
from tests.cpu_backend.test_cpu_families import logits_of, open_chain

WIDE = {"hidden_size": 128, "intermediate_size": 192, "head_dim": 32}
"""Rows of whole groups, and blocks of FP8 that end within the matrix."""
ROUNDED_INPUTS = 0.06
"""Most relative error of logits where the inputs of every linear are rounded to 8 bits, in a model of 128 channels."""
ROUNDING_FLIPS = 0.025
"""The same where the judge rounds them too: a number near a half may be rounded to either side."""
EIGHT_BITS = ("mlx_8", "gptq_8", "w8a8", "w8a16")
"""Their values are too near the original ones for logits to show a difference."""
EXACT_INPUTS = ("fp8_blocks", "fp8_whole", "fp8_rows", "gptq_ordered")


def write(tmp_path: Path, layout: str, model_type: str = "qwen3", **settings: Any) -> tuple[Path, Path]:
    """The quantized model, and the one in float32 that it means."""
    make_model_of(model_type, tmp_path / "source", **(WIDE | settings))
    plain = tmp_path / "plain"
    return write_quantized_model(tmp_path / "source", tmp_path / layout, layout, plain=plain), plain


def dequantized(folder: Path) -> dict[str, Any]:
    """Name → values of what is handed to the library, by the library."""
    plan, files, library = plan_stage(spec(folder)), MappedFiles(), load_library()
    found = {}
    for part in plan.parts:
        tensor = plan.tensors[part.name]
        form, data = tensor.read(files, 0, tensor.shape[0])
        data, values = np.ascontiguousarray(data), np.empty(tensor.shape, np.float32)
        library.check(library.functions.hc_dequantize(form, values.size, data.ctypes.data, values.ctypes.data))
        found[part.name] = values
    return found


def spec(folder: Path, **settings: Any) -> StageSpec:
    return StageSpec(str(folder), 0, NUM_LAYERS, NUM_LAYERS, max_sequence_length=64, **settings)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_are_those_of_the_layout_to_the_bit(layout: str, tmp_path: Path) -> None:
    folder, plain = write(tmp_path, layout)
    expected, found = read_float_tensors(plain / "model.safetensors"), dequantized(folder)
    original = read_float_tensors(tmp_path / "source" / "model.safetensors")

    assert found.keys() == expected.keys()
    for name, values in found.items():
        assert np.array_equal(values, expected[name]), name
    assert any(not np.array_equal(expected[name], original[name]) for name in expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_and_greedy_tokens_are_those_of_the_values(layout: str, tmp_path: Path) -> None:
    folder, plain = write(tmp_path, layout)
    model = AutoModelForCausalLM.from_pretrained(plain, dtype="float32").eval()
    exact = refer(model, prompt(1, 21), 1)
    if layout not in EXACT_INPUTS:
        round_inputs(model, plan_stage(spec(folder)).tensors)
    reference = refer(model, prompt(1, 21), 12)
    most = MOST_ERROR if layout in EXACT_INPUTS else ROUNDING_FLIPS
    found = logits_of(str(folder), reference.ids)
    chain = open_chain(str(folder), (1,))
    tokens = chain.greedy(reference.ids, len(reference.tokens))
    chain.close()
    others = [index for index, token in enumerate(reference.tokens) if tokens[index] != token]

    assert len(set(reference.tokens)) >= 4
    assert not others or reference.gaps[others[0]] < most, "another token than transformers', and no near-tie"
    assert logits_error(found, reference.logits) <= most
    assert logits_error(found, exact.logits) <= (most if layout in EXACT_INPUTS else ROUNDED_INPUTS)
    if not layout.startswith(EIGHT_BITS):
        assert logits_error(logits_of(str(tmp_path / "source"), reference.ids), reference.logits) > 3 * most


def round_inputs(model: Any, tensors: Mapping[str, StoredTensor]) -> None:
    """Inputs of quantized linears come as the library takes them: in 8 bits by groups of 32, as llama.cpp does it."""
    stems = {name.removesuffix(".weight") for name, tensor in tensors.items() if not tensor.is_mapped}
    if "model.embed_tokens" in stems and model.config.tie_word_embeddings:
        stems.add("lm_head")
    for stem, module in model.named_modules():
        if stem in stems and isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(_rounded)


def _rounded(module: Any, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    groups = inputs[0].unflatten(-1, (-1, 32))
    scale = groups.abs().amax(-1, keepdim=True) / 127
    return (((groups / scale).nan_to_num().round() * scale).flatten(-2, -1),)


@pytest.mark.parametrize(
    ("layout", "piece"), [("mlx_4", "biases"), ("gptq_zeros", "qzeros"), ("w4a16", "weight_scale")]
)
def test_one_changed_number_of_a_piece_is_seen(layout: str, piece: str, tmp_path: Path) -> None:
    folder, _ = write(tmp_path, layout)
    before = dequantized(folder)
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    at = begin + header[f"model.layers.1.mlp.up_proj.{piece}"]["data_offsets"][0]
    data[at] ^= 1
    file.write_bytes(data)
    after = dequantized(folder)

    assert [name for name in before if not np.array_equal(before[name], after[name])] == [
        "model.layers.1.mlp.up_proj.weight"
    ]


@pytest.mark.parametrize("layout", ["mlx_4", "mlx_8", "gptq", "awq", "w4a16", "w8a8", "fp8_blocks"])
def test_bytes_are_told_before_and_behind_loading_alike(layout: str, tmp_path: Path) -> None:
    folder, _ = write(tmp_path, layout, hidden_size=128, intermediate_size=256)
    probe = CpuFactory().supports(spec(folder))
    stage = CpuFactory().open(spec(folder), lambda done, text: None)
    stage.close()

    assert probe.available, probe.reason
    assert probe.weight_bytes == pytest.approx(stage.capacity.param_bytes, rel=0.03)


@pytest.mark.parametrize("layout", ["gptq", "awq", "w4a16", "fp8_rows"])
def test_fused_weights_are_read_in_parts(layout: str, tmp_path: Path) -> None:
    folder, plain = write(tmp_path, layout, "phi3", num_key_value_heads=2)
    ids = prompt(1, 21)

    assert logits_error(logits_of(str(folder), ids), logits_of(str(plain), ids)) <= ROUNDED_INPUTS


def changed(folder: Path, **settings: Any) -> Path:
    """With these settings of the quantizer in place of its own."""
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= settings
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("layout", "settings", "said"),
    [
        ("gptq", {"bits": 3}, "by GPTQ to 3 bits"),
        ("gptq", {"checkpoint_format": "marlin"}, "in the format 'marlin'"),
        ("awq", {"bits": 8}, "by AWQ to 8 bits"),
        ("awq", {"version": "gemv"}, "in the format 'gemv'"),
        ("w4a16", {"format": "nvfp4-pack-quantized"}, "weights are nvfp4-pack-quantized"),
        ("w4a16", {"config_groups": {"a": {"weights": {"num_bits": 3}}}}, "packed as 3 bits of int"),
        ("w4a16", {"quant_method": "bitsandbytes"}, "quantized by bitsandbytes"),
    ],
)
def test_what_is_not_computed_with_is_refused_by_name(
    layout: str, settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder, _ = write(tmp_path, layout)
    probe = CpuFactory().supports(spec(changed(folder, **settings)))

    assert not probe.available
    assert said in probe.reason
    assert "SGLang" in probe.reason


@pytest.mark.parametrize("layout", ["gptq", "awq", "w4a16", "fp8_rows"])
def test_pieces_that_do_not_fit_each_other_are_named(layout: str, tmp_path: Path) -> None:
    folder, _ = write(tmp_path, layout)
    file = folder / "model.safetensors"
    data = file.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    scale = next(name for name in header if "layers.1.mlp.up_proj" in name and "scale" in name)
    header[scale]["shape"] = [*header[scale]["shape"], 1, 1]
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[begin:])
    probe = CpuFactory().supports(spec(folder))

    assert not probe.available
    assert scale in probe.reason


def test_the_runtime_knows_which_methods_run_here() -> None:
    assert set(METHODS) == set(CPU_METHODS)
