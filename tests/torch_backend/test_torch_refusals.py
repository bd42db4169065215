"""What can't run is refused by name, from config.json and file names alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from histrio.config.settings import MemorySettings, SizeSettings
from histrio.contracts.backend import StageSpec
from histrio.errors import BackendError, DoesNotFit, ModelError, ModelUnavailable, UnsupportedModel
from histrio_torch.factory import TorchFactory
from histrio_torch.testing import NUM_LAYERS

NO_TENSORS = (2).to_bytes(8, "little") + b"{}"
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 2}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "encoder": (
        {"architectures": ["FunnelModel"], "model_type": "funnel"},
        "FunnelModel .*that run are albert",
    ),
    "task_head": ({**LLAMA, "architectures": ["LlamaForTokenClassification"]}, "TokenClassification .*no causal"),
    "own_task_head": (
        {"architectures": ["GPT2ForSequenceClassification"], "model_type": "gpt2", "num_labels": 1},
        "GPT2ForSequenceClassification .*head is not the one",
    ),
    "several_labels": ({**LLAMA, "architectures": ["LlamaForSequenceClassification"]}, "head gives 2 numbers"),
    "encoder_decoder": (
        {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "is_encoder_decoder": True},
        "T5ForConditionalGeneration .*encoder-decoder",
    ),
    "state": ({"architectures": ["MambaForCausalLM"], "model_type": "mamba", "state_size": 16}, "Mamba.*state_size"),
    "hybrid": (
        {"architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "linear_num_key_heads": 4},
        "Qwen3NextForCausalLM .*hybrid state",
    ),
    "layer_type": ({**LLAMA, "layer_types": ["full_attention", "linear_attention"]}, "type linear_attention"),
    "chunked": ({**LLAMA, "layer_types": ["chunked_attention", "full_attention"]}, "type chunked_attention"),
    "remote_code": (
        {"architectures": ["OwnForCausalLM"], "model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}},
        "OwnForCausalLM .*remote code",
    ),
    "unknown": ({"architectures": ["OwnForCausalLM"], "model_type": "own"}, "no language model of type 'own'"),
    "images": ({**LLAMA, "vision_config": {}}, "multimodal"),
    "quantized": ({**LLAMA, "quantization_config": {"quant_method": "gptq"}}, r"\(gptq\).*gptqmodel.*--backend cpu"),
    "mlx": ({**LLAMA, "quantization": {"group_size": 64, "bits": 4}}, r"quantized \(mlx\).*--backend cpu"),
    "bitsandbytes": ({**LLAMA, "quantization_config": {"quant_method": "bitsandbytes"}}, r"--backend sglang"),
    "shared_kv": (
        {**LLAMA, "model_type": "gemma4_text", "num_kv_shared_layers": 1},
        r"keys and values of earlier ones \(num_kv_shared_layers",
    ),
    "layer_inputs": (
        {**LLAMA, "model_type": "gemma3n_text", "hidden_size_per_layer_input": 256},
        "inputs that only the first stage has",
    ),
    "indexer": (
        {**LLAMA, "architectures": ["DeepseekV32ForCausalLM"], "model_type": "deepseek_v32", "index_topk": 2048},
        r"DeepseekV32ForCausalLM .*choose the keys .*index_topk",
    ),
    "own_attention": (
        {"architectures": ["FalconForCausalLM"], "model_type": "falcon", "n_layer": 2},
        "FalconForCausalLM .*computes attention itself",
    ),
    "encoder_with_a_head": (
        {**LLAMA, "architectures": ["RobertaForCausalLM"], "model_type": "roberta"},
        "RobertaForCausalLM .*encoder; only decoders",
    ),
    "granite_hybrid": (
        {**LLAMA, "model_type": "granitemoehybrid", "layer_types": ["mamba", "attention"], "mamba_d_state": 128},
        "layers of type mamba",
    ),
    "bidirectional": ({**LLAMA, "is_causal": False}, "bidirectional"),
    "nameless": ({}, "a model without model_type"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name_before_weights_are_read(case: str, tmp_path: Path) -> None:
    config, reason = REFUSED[case]
    write_model(tmp_path, config, {"model.safetensors": b"these are no weights"})
    probe = TorchFactory().supports(StageSpec(str(tmp_path), 0, 2, 2))

    assert not probe.available
    with pytest.raises(UnsupportedModel, match=reason):
        raise UnsupportedModel(probe.reason)
    with pytest.raises(UnsupportedModel, match=reason):
        open_stage(tmp_path)


def test_a_plain_decoder_is_supported(tmp_path: Path) -> None:
    write_model(tmp_path, LLAMA, {"model.safetensors": NO_TENSORS})
    assert TorchFactory().supports(StageSpec(str(tmp_path), 0, 2, 2)).available


def test_a_list_of_attention_layers_outweighs_keys_of_a_state(tmp_path: Path) -> None:
    micro = {**LLAMA, "model_type": "granitemoehybrid", "layer_types": ["attention"] * 2, "mamba_d_state": 128}
    write_model(tmp_path, micro, {})
    assert TorchFactory().supports(StageSpec(str(tmp_path), 0, 2, 2, has_weights=False)).available


def test_remote_code_beside_a_known_type_is_left_alone(tmp_path: Path) -> None:
    write_model(tmp_path, {**LLAMA, "auto_map": {"AutoConfig": "own.OwnConfig"}}, {"model.safetensors": NO_TENSORS})
    assert TorchFactory().supports(StageSpec(str(tmp_path), 0, 2, 2)).available


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path, LLAMA, {"pytorch_model.bin": b"pickle"})
    with pytest.raises(UnsupportedModel, match=r"pytorch_model\.bin"):
        open_stage(tmp_path)
    assert "pytorch_model.bin" in TorchFactory().supports(StageSpec(str(tmp_path), 0, 2, 2)).reason


def test_missing_shards_are_named(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    files = {"model.safetensors.index.json": json.dumps(index).encode(), "model-00001-of-00002.safetensors": b""}
    write_model(tmp_path, LLAMA, files)
    with pytest.raises(ModelUnavailable, match=r"lacks 1 of the 2 .*model-00002"):
        open_stage(tmp_path)


def test_a_folder_without_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"config\.json is missing"):
        open_stage(tmp_path)


def test_a_range_beyond_the_model_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path, LLAMA, {"model.safetensors": NO_TENSORS})
    assert "2 layers" in TorchFactory().supports(StageSpec(str(tmp_path), 1, 3, 2)).reason


def test_missing_weights_are_named(tiny_model: Callable[[str], Any], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    source = Path(tiny_model("llama").folder)
    weights = load_file(source / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((source / "config.json").read_text())

    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj"):
        open_stage(tmp_path, NUM_LAYERS)
    later = StageSpec(str(tmp_path), 2, 3, NUM_LAYERS, device="cpu")
    TorchFactory().open(later, lambda fraction, text: None).close()


def test_a_mask_of_the_models_own_is_refused(tmp_path: Path) -> None:
    from transformers import BloomConfig, BloomForCausalLM

    BloomForCausalLM(BloomConfig(vocab_size=32, hidden_size=16, n_layer=2, n_head=2)).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="BloomForCausalLM"):
        open_stage(tmp_path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"memory": MemorySettings(param_mem_ratio=1e-9)}, "param-mem-ratio"),
        ({"block_mem_ratio": 1e-9}, "kvcache-mem-ratio"),
        ({"sizes": SizeSettings(num_cache_blocks=10**12)}, "1000000000000 blocks"),
    ],
)
def test_what_does_not_fit_is_refused_with_numbers(
    settings: dict[str, Any], words: str, tiny_model: Callable[[str], Any]
) -> None:
    with pytest.raises(DoesNotFit, match=words) as caught:
        open_stage(Path(tiny_model("llama").folder), NUM_LAYERS, **settings)
    assert "GiB" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"device": "abacus"}, "abacus"), ({"dtype": "int3"}, "int3")],
)
def test_unknown_settings_are_refused(settings: dict[str, Any], words: str, tiny_model: Callable[[str], Any]) -> None:
    with pytest.raises(BackendError, match=words):
        open_stage(Path(tiny_model("llama").folder), NUM_LAYERS, **settings)


def write_model(folder: Path, config: dict[str, Any], files: dict[str, bytes]) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (folder / name).write_bytes(content)


def open_stage(folder: Path, num_layers: int = 2, **settings: Any) -> None:
    spec = StageSpec(str(folder), 0, num_layers, num_layers, **{"device": "cpu", **settings})
    TorchFactory().open(spec, lambda *_: None).close()
