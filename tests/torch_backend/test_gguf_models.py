"""GGUF files of every architecture mean what transformers' folders mean: the same names, values and logits."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from histrio.config.gguf.dequantize import dequantize
from histrio.config.gguf.folder import CACHE_VARIABLE, folder_of_gguf
from histrio.config.gguf.pointer import GgufWeights
from histrio.contracts.backend import StageSpec
from histrio.testing.gguf_models import ARCHITECTURES, write_gguf_model
from histrio.testing.models import write_tokenizer
from histrio_torch.factory import TorchFactory

SIZES: dict[str, Any] = {
    "vocab_size": 258,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 0,
}
WIDE_HEADS = {"head_dim": 32}
OWN: dict[str, dict[str, Any]] = {
    "llama": WIDE_HEADS | {"tie_word_embeddings": True},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3": WIDE_HEADS,
    "qwen3_moe": WIDE_HEADS
    | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True},
    "gemma2": WIDE_HEADS | {"query_pre_attn_scalar": 32, "sliding_window": 8},
    "gemma3_text": WIDE_HEADS | {"query_pre_attn_scalar": 32, "sliding_window": 8},
    "cohere": {"logit_scale": 0.5},
    "cohere2": WIDE_HEADS | {"logit_scale": 0.5, "sliding_window": 8},
    "glm4": WIDE_HEADS,
    "smollm3": WIDE_HEADS,
    "granite": {
        "attention_multiplier": 0.1,
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "logits_scaling": 2.0,
    },
}
SENTENCE = r"tiny\.gguf is a GGUF file, which the backend `cpu` runs: --backend cpu"
IDS = (torch.arange(30) * 7 % 250).reshape(1, 30)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


def tiny(kind: str, folder: Path) -> Any:
    """A tiny random model of transformers, saved in `folder` with a tokenizer."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES | OWN.get(kind, {}))).eval()
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        parameter.data = (
            parameter.data + 0.1 * noise if parameter.ndim == 1 else noise * 1.5 / parameter.shape[-1] ** 0.5
        )
    model.save_pretrained(folder)
    write_tokenizer(folder)
    if kind == "gemma3_text":
        config = json.loads((folder / "config.json").read_text())
        config |= {"rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0}
        (folder / "config.json").write_text(json.dumps(config))
    return model


def as_transformers_has_them(folder: Path, config: Any, *, ignores_notes: bool) -> dict[str, torch.Tensor]:
    """What the file has, by name; its notes say where the values stand otherwise."""
    found = {}
    with GgufWeights(folder) as weights:
        for name, tensor in weights.tensors.items():
            values = dequantize(weights.data(name), tensor.block_type).reshape(tensor.shape).copy()
            if tensor.rotary_pairs_adjacent and not ignores_notes:
                heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
                pairs = values.reshape(heads, -1, 2, *values.shape[1:])
                values = pairs.swapaxes(1, 2).reshape(values.shape)
            if tensor.has_one_added and not ignores_notes:
                values = values - 1
            found[name] = torch.from_numpy(np.ascontiguousarray(values))
    return found


def with_stacked_experts(tensors: dict[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
    """As gpt-oss is published: the experts of a layer in one tensor, inputs before outputs, gate and up in turns."""
    found = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}.mlp.experts"

        def stack(projection: str, part: str, prefix: str = prefix) -> torch.Tensor:
            each = [tensors[f"{prefix}.{index}.{projection}.{part}"] for index in range(config.num_local_experts)]
            return torch.stack(each).transpose(1, -1).contiguous()

        for part, suffix in (("weight", ""), ("bias", "_bias")):
            in_turns = torch.stack([stack("gate_proj", part), stack("up_proj", part)], dim=-1)
            found[f"{prefix}.gate_up_proj{suffix}"] = in_turns.flatten(-2).contiguous()
            found[f"{prefix}.down_proj{suffix}"] = stack("down_proj", part)
    return found


def logits(folder: Path, tensors: dict[str, torch.Tensor]) -> Any:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_file_means_what_the_folder_means_that_it_was_made_of(kind: str, tmp_path: Path) -> None:
    model = tiny(kind, tmp_path / "model")
    folder = folder_of_gguf(write_gguf_model(tmp_path / "model", tmp_path / "tiny.gguf"))
    config = AutoConfig.from_pretrained(folder)
    found = as_transformers_has_them(folder, config, ignores_notes=False)

    if kind == "gpt_oss":
        found = with_stacked_experts(found, config)
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert found.keys() == stored.keys()
    assert all(torch.allclose(found[name], stored[name], atol=1e-6) for name in stored)
    with torch.no_grad():
        expected = model(IDS).logits
    assert torch.allclose(logits(folder, found), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_without_its_notes_a_file_means_something_else(kind: str, tmp_path: Path) -> None:
    model = tiny(kind, tmp_path / "model")
    folder = folder_of_gguf(write_gguf_model(tmp_path / "model", tmp_path / "tiny.gguf"))
    found = as_transformers_has_them(folder, AutoConfig.from_pretrained(folder), ignores_notes=True)
    with torch.no_grad():
        expected = model(IDS).logits
    assert float((logits(folder, found) - expected).abs().max()) > 0.1


def test_torch_says_which_backend_runs_the_file(tmp_path: Path) -> None:
    tiny("qwen3", tmp_path / "model")
    folder = folder_of_gguf(write_gguf_model(tmp_path / "model", tmp_path / "tiny.gguf"))
    spec = StageSpec(model=str(folder), first_layer=0, last_layer=4, num_layers=4)
    refused = TorchFactory().supports(spec)
    assert not refused.available
    assert re.search(SENTENCE, refused.sentence)
    assert TorchFactory().supports(msgspec.structs.replace(spec, model=str(tmp_path / "model"))).available
