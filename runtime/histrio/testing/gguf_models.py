"""GGUF files of tiny models: a folder in transformers' layout, written as the format's own converter writes it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histrio.config.weights import read_header
from histrio.testing.gguf import F32, StoredBlocks, blocks, write_gguf

__all__ = ["ARCHITECTURES", "gguf_metadata", "gguf_tensors", "read_float_tensors", "write_gguf_model"]

ARCHITECTURES = {
    "llama": "llama",
    "mixtral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
    "cohere": "command-r",
    "cohere2": "cohere2",
    "glm4": "glm4",
    "smollm3": "smollm3",
    "olmo2": "olmo2",
    "granite": "granite",
    "gpt_oss": "gpt-oss",
}
"""`model_type` of transformers → architecture of the format."""
_NUMBERS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "max_position_embeddings": "context_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "layer_norm_eps": "attention.layer_norm_epsilon",
    "head_dim": "attention.key_length",
    "rope_theta": "rope.freq_base",
    "rope_local_base_freq": "rope.freq_base_swa",
    "sliding_window": "attention.sliding_window",
    "num_local_experts": "expert_count",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "logit_scale": "logit_scale",
    "logits_scaling": "logit_scale",
    "attention_multiplier": "attention.scale",
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
}
_NAMES = {
    r"model\.embed_tokens": "token_embd",
    r"model\.norm": "output_norm",
    r"lm_head": "output",
    r"self_attn\.(q|k|v|qkv)_proj": r"attn_\1",
    r"self_attn\.o_proj": "attn_output",
    r"self_attn\.(q|k)_norm": r"attn_\1_norm",
    r"self_attn\.sinks": "attn_sinks",
    r"mlp\.(gate|up|down)_proj": r"ffn_\1",
    r"mlp\.gate_up_proj": "ffn_up",
    r"mlp\.router": "ffn_gate_inp",
    r"mlp\.gate|block_sparse_moe\.gate": "ffn_gate_inp",
    r"input_layernorm": "attn_norm",
    r"post_self_attn_layernorm": "post_attention_norm",
    r"pre_feedforward_layernorm": "ffn_norm",
    r"post_feedforward_layernorm|post_mlp_layernorm": "post_ffw_norm",
}
_POST_IS_OWN_NORM = ("gemma2", "gemma3_text", "olmo2", "gpt_oss")
"""Their `post_attention_layernorm` comes behind attention, or is called so in files all the same; that of the others
comes before the rest of the layer, and is called so."""
_PERMUTED = ("llama", "mixtral", "smollm3", "granite")
_ONE_ADDED = ("gemma2", "gemma3_text")
_EXPERT = re.compile(r"(model\.layers\.\d+)\.(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(\w+)\.weight")
_EXPERT_PARTS = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down", "w1": "gate", "w3": "up", "w2": "down"}

Arrays = Mapping[str, npt.NDArray[Any]]


def write_gguf_model(folder: Path, file: Path, block_type: int = F32) -> Path:
    """The model of `folder`, which holds float32 in one file, as GGUF: matrices in the format `block_type`, the rest
    in float32. Returns `file`."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    metadata = gguf_metadata(config) | _vocabulary(folder)
    return write_gguf(
        file, metadata, gguf_tensors(read_float_tensors(folder / "model.safetensors"), config, block_type)
    )


def gguf_metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config.json becomes."""
    architecture = ARCHITECTURES[config["model_type"]]
    values = dict(config) | dict(config.get("rope_parameters") or {})
    metadata: dict[str, Any] = {"general.architecture": architecture}
    if architecture == "gpt-oss":
        metadata["gpt-oss.expert_feed_forward_length"] = values["intermediate_size"]
    if values.get("rope_type") == "yarn":
        metadata[f"{architecture}.rope.scaling.type"] = "yarn"
        metadata[f"{architecture}.rope.scaling.factor"] = values["factor"]
        original = values["original_max_position_embeddings"]
        metadata[f"{architecture}.rope.scaling.original_context_length"] = original
    for ours, theirs in _NUMBERS.items():
        if values.get(ours) is not None:
            metadata[f"{architecture}.{theirs}"] = values[ours]
    head_dim = values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"]
    metadata[f"{architecture}.rope.dimension_count"] = int(head_dim * values.get("partial_rotary_factor", 1.0))
    return metadata


def gguf_tensors(tensors: Arrays, config: Mapping[str, Any], block_type: int = F32) -> dict[str, StoredBlocks]:
    """Under the format's names, and with values as it has them."""
    kind = config["model_type"]
    stacks: dict[str, dict[int, npt.NDArray[Any]]] = {}
    found: dict[str, StoredBlocks] = {}
    for name, values in tensors.items():
        expert = _EXPERT.fullmatch(name)
        if expert:
            layer = expert[1].replace("model.layers", "blk")
            stacks.setdefault(f"{layer}.ffn_{_EXPERT_PARTS[expert[3]]}_exps.weight", {})[int(expert[2])] = values
            continue
        if kind == "gpt_oss" and ".experts." in name:
            found |= _gpt_oss_experts(name, values, block_type)
            continue
        if kind in _PERMUTED and re.search(r"\.[qk]_proj\.", name):
            heads = config["num_attention_heads" if ".q_proj." in name else "num_key_value_heads"]
            values = _in_pairs(values, heads)
        if kind in _ONE_ADDED and name.endswith("norm.weight"):
            values = values + 1
        found[_gguf_name(name, kind)] = blocks(values, block_type if values.ndim > 1 else F32)
    for name, stack in stacks.items():
        found[name] = blocks(np.stack([stack[expert] for expert in sorted(stack)]), block_type)
    return found


def _gpt_oss_experts(name: str, values: npt.NDArray[Any], block_type: int) -> dict[str, StoredBlocks]:
    """Gate and up apart, and matrices as [outputs, inputs]."""
    layer, _, part = name.replace("model.layers", "blk").partition(".mlp.experts.")
    is_bias = part.endswith("_bias")
    rows = values if is_bias else values.swapaxes(1, 2)
    parts = {"down": rows} if part.startswith("down") else {"gate": rows[:, 0::2], "up": rows[:, 1::2]}
    suffix, stored = ("bias", F32) if is_bias else ("weight", block_type)
    return {f"{layer}.ffn_{each}_exps.{suffix}": blocks(stack, stored) for each, stack in parts.items()}


def _gguf_name(name: str, kind: str) -> str:
    if name.endswith(".sinks"):
        name += ".weight"
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    part, suffix = (layer[2], layer[3]) if layer else name.rsplit(".", 1)
    if part == "post_attention_layernorm":
        ours = "post_attention_norm" if kind in _POST_IS_OWN_NORM else "ffn_norm"
    else:
        pattern = next(each for each in _NAMES if re.fullmatch(each, part))
        ours = re.sub(pattern, _NAMES[pattern], part)
    return f"blk.{layer[1]}.{ours}.{suffix}" if layer else f"{ours}.{suffix}"


def _in_pairs(values: npt.NDArray[Any], num_heads: int) -> npt.NDArray[Any]:
    """Rows i and i + half of each head become neighbours."""
    halves = values.reshape(num_heads, 2, -1, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _vocabulary(folder: Path) -> dict[str, Any]:
    """Of a byte-level tokenizer.json, and the chat template beside it."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    kinds = {each["id"]: 3 if each["special"] else 4 for each in tokenizer["added_tokens"]}
    tokens = {index: token for token, index in tokenizer["model"]["vocab"].items()}
    tokens |= {each["id"]: each["content"] for each in tokenizer["added_tokens"]}
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in tokenizer["model"]["merges"]]
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [tokens[index] for index in range(len(tokens))],
        "tokenizer.ggml.token_type": np.array([kinds.get(index, 1) for index in range(len(tokens))], np.int32),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.add_bos_token": False,
    }
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        token_id = config.get(f"{ours}_token_id")
        if isinstance(token_id, int) and token_id >= 0:
            metadata[f"tokenizer.ggml.{theirs}_token_id"] = token_id
    template = folder / "chat_template.jinja"
    if template.is_file():
        metadata["tokenizer.chat_template"] = template.read_text(encoding="utf-8")
    return metadata


def read_float_tensors(file: Path) -> dict[str, npt.NDArray[Any]]:
    """Name → tensor of a safetensors file in float32."""
    data = file.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    return {
        name: np.frombuffer(data, "<f4", tensor.num_bytes // 4, begin + tensor.data_offsets[0]).reshape(tensor.shape)
        for name, tensor in read_header(file).items()
    }
