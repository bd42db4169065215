"""What one stage says is what transformers says, for configurations as published; controls leave the corrections out.

`HISTRIO_ALL_FAMILIES=1` judges all published configurations instead of those that need a correction or a limit.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from histrio.contracts.backend import Probe, StageSpec
from histrio.errors import UnsupportedModel
from histrio.testing.chain import StageChain
from histrio_mlx import corrections
from histrio_mlx.factory import MlxFactory
from histrio_mlx.families import load_record
from histrio_mlx.refusals import odd_keys
from histrio_mlx.survey.judge import CLOSE, judge_model, published, save_model

MENDED = ("ernie4_5_moe", "falcon_h1", "glm", "gpt_oss", "jamba", "recurrent_gemma", "solar_open")
"""Wrong without `histrio_mlx.corrections`."""
JUDGED = sorted(published()) if os.environ.get("HISTRIO_ALL_FAMILIES") else [*MENDED, "deepseek_v32", "glm_moe_dsa"]


@pytest.mark.parametrize("name", JUDGED)
def test_a_published_configuration_says_what_transformers_says(name: str) -> None:
    error, control = judge_model(published()[name])

    assert error <= CLOSE
    assert control > 10 * CLOSE, "another first token changes too little to prove anything"


@pytest.mark.parametrize("name", MENDED)
def test_without_its_correction_a_family_is_wrong(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corrections, "_AMENDED", {"gpt_oss": corrections._AMENDED["gpt_oss"]})
    monkeypatch.setattr(corrections, "_CORRECTED", {})
    monkeypatch.setattr(corrections, "_check_scaling", lambda model, config: None)

    assert judge_model(published()[name])[0] > 10 * CLOSE


def test_embeddings_of_gemma3_are_scaled_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {**published()["gemma3_text"], "hidden_size": 72}
    error, _ = judge_model(config)
    monkeypatch.setattr(corrections, "_CORRECTED", {})

    assert error <= 1e-5
    assert judge_model(config)[0] > CLOSE


def test_the_record_has_a_judge_for_each_published_configuration() -> None:
    families = load_record().families.values()
    judged = {name for family in families for name in family.judge}

    assert judged == set(published())
    assert all(distance <= CLOSE for family in families for distance in family.judge.values())


@pytest.mark.parametrize(("name", "bias"), [("falcon_h1", "k_proj"), ("ernie4_5_moe", "e_score_correction_bias")])
def test_checkpoints_that_lost_something_in_conversion_are_refused(name: str, bias: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_model(published()[name], tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lost = {
        key: array.transpose(1, 2).contiguous() if "conv1d.weight" in key else array
        for key, array in weights.items()
        if bias == "k_proj" or bias not in key
    }
    save_file(lost, tmp_path / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(UnsupportedModel, match="converted by mlx-lm"):
        StageChain(MlxFactory(), tmp_path, [])


REFUSED: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "fp8": (
        "qwen3",
        {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
        128,
        "quantized by FP8",
    ),
    "gptq": ("qwen3", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, 128, "quantized by GPTQ"),
    "bitsandbytes": ("qwen3", {"quantization_config": {"quant_method": "bitsandbytes"}}, 128, "by bitsandbytes"),
    "float": (
        "qwen3",
        {"quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized"}},
        128,
        "compressed-tensors float-quantized",
    ),
    "sparse attention": ("deepseek_v32", {"index_topk": 64}, 65, "max-sequence-length to 64 or less"),
    "sparse attention of GLM": ("glm_moe_dsa", {"index_topk": 64}, 65, "max-sequence-length to 64 or less"),
    "windows": ("gemma2", {"sliding_window": 64}, 65, "max-sequence-length to 64 or less"),
    "a multiplier": ("llama", {"residual_multiplier": 0.5}, 128, "does not read residual_multiplier"),
    "a cap": ("qwen2", {"attn_logit_softcapping": 50.0}, 128, "does not read attn_logit_softcapping"),
    "scaled positions": (
        "gptj",
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        128,
        "does not read rope_scaling",
    ),
    "a key too few": ("qwen3", {"head_dim": None}, 128, "needs head_dim"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_mlx_lm_gets_wrong_is_refused_before_anything_is_loaded(name: str, tmp_path: Path) -> None:
    family, change, length, words = REFUSED[name]
    before = supports(published()[family], tmp_path, 64)
    config = {key: value for key, value in {**published()[family], **change}.items() if key != "head_dim" or value}

    found = supports(config, tmp_path, length)

    assert before.available, "the control is refused too"
    assert not found.available
    assert words in found.reason


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("deepseek_v3", {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}),
        ("gpt_oss", {"quantization_config": {"quant_method": "mxfp4"}}),
        ("qwen3", {"quantization_config": None}),
        ("qwen3", {"quantization_config": {"quant_method": "awq", "bits": 4}}),
        ("llama", {"residual_multiplier": 1.0, "attn_logit_softcapping": None, "rope_scaling": None}),
        ("deepseek_v32", {"index_topk": 64}),
    ],
)
def test_what_mlx_lm_reads_is_not_refused(family: str, change: dict[str, Any], tmp_path: Path) -> None:
    assert supports({**published()[family], **change}, tmp_path, 64).available


def test_keys_without_an_effect_are_not_odd() -> None:
    assert odd_keys({"partial_rotary_factor": 1.0, "rope_scaling": {"type": "default"}, "clip_qkv": None}) == []
    assert odd_keys({"partial_rotary_factor": 0.5, "logit_scale": 0.0625}) == ["logit_scale", "partial_rotary_factor"]


def supports(config: dict[str, Any], folder: Path, max_sequence_length: int) -> Probe:
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").touch()
    layers = int(config.get("num_hidden_layers") or config["n_layer"])
    return MlxFactory().supports(StageSpec(str(folder), 0, layers, layers, max_sequence_length=max_sequence_length))
