"""Tiny random models, one or more per family, saved as transformers saves them.

Weights are drawn with a deviation that makes greedy streams wander: with default initialisation a model says one token
for ever, and a test of equality would see nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["FAMILIES", "MAX_LENGTH", "NUM_LAYERS", "OTHERS", "VOCAB_SIZE", "make_model", "make_model_of"]

NUM_LAYERS = 3
VOCAB_SIZE = 160
MAX_LENGTH = 64
"""Prompt and output together stay below it, where LongRoPE has its short factors in transformers too."""

_PLAIN: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "tie_word_embeddings": False,
}
_MIXED_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
_PHI_ROPE_PAIRS = 8
_LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + 0.1 * index for index in range(_PHI_ROPE_PAIRS)],
    "long_factor": [1.5 + 0.7 * index for index in range(_PHI_ROPE_PAIRS)],
    "original_max_position_embeddings": MAX_LENGTH,
}

_NTK_ALPHA = {"rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0, "rope_theta": 10000.0}
"""Called dynamic in config.json, though nothing of it depends on the length."""

FAMILIES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}}),
    "mistral": ("mistral", {"sliding_window": 12}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"tie_word_embeddings": True}),
    "qwen3_moe": (
        "qwen3_moe",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True},
    ),
    "gemma2": (
        "gemma2",
        {
            "layer_types": _MIXED_LAYERS,
            "sliding_window": 12,
            "query_pre_attn_scalar": 4,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 8.0,
            "tie_word_embeddings": True,
        },
    ),
    "gemma3": (
        "gemma3_text",
        {
            "layer_types": _MIXED_LAYERS,
            "sliding_window": 12,
            "query_pre_attn_scalar": 4,
            "tie_word_embeddings": True,
        },
    ),
    "phi3": ("phi3", {"hidden_size": 64, "sliding_window": None}),
    "phi3_longrope": (
        "phi3",
        {
            "hidden_size": 64,
            "sliding_window": None,
            "rope_parameters": _LONG_ROPE,
            "original_max_position_embeddings": MAX_LENGTH,
        },
    ),
    "cohere": ("cohere", {"logit_scale": 0.25, "use_qk_norm": True, "tie_word_embeddings": True}),
    "glm4": ("glm4", {"partial_rotary_factor": 0.5}),
    "deepseek_v3": (
        "deepseek_v3",
        {
            "head_dim": 8,
            "num_key_value_heads": 4,
            "q_lora_rank": 24,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 12,
            "qk_rope_head_dim": 8,
            "v_head_dim": 10,
            "first_k_dense_replace": 1,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "n_shared_experts": 1,
            "moe_intermediate_size": 32,
        },
    ),
}
"""Name → (model type of transformers, settings on top of the common ones)."""

OTHERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "ctrl": ("ctrl", {"dff": 64, "n_positions": 256, "tie_word_embeddings": True}),
    "deepseek_v2": ("deepseek_v2", FAMILIES["deepseek_v3"][1]),
    "gemma4": (
        "gemma4_text",
        {
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "sliding_window": 12,
            "hidden_size_per_layer_input": 0,
            "attention_k_eq_v": True,
            "global_head_dim": 32,
            "num_global_key_value_heads": 1,
            "tie_word_embeddings": True,
        },
    ),
    "gpt2": ("gpt2", {"n_inner": 64, "tie_word_embeddings": True}),
    "gpt_oss": ("gpt_oss", {"num_local_experts": 4, "layer_types": _MIXED_LAYERS, "sliding_window": 12}),
    "granite": ("granite", {"logits_scaling": 3.0, "residual_multiplier": 0.5, "embedding_multiplier": 5.0}),
    "granite4": (
        "granitemoehybrid",
        {
            "layer_types": ["attention"] * NUM_LAYERS,
            "num_local_experts": 0,
            "shared_intermediate_size": 64,
            "position_embedding_type": "rope",
            "mamba_d_state": 16,
            "mamba_d_head": 16,
            "mamba_n_heads": 6,
        },
    ),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", {"rope_parameters": _NTK_ALPHA}),
    "hunyuan_v1_moe": ("hunyuan_v1_moe", {"num_experts": 4, "moe_topk": 2}),
    "nanochat": ("nanochat", {}),
    "olmo2": ("olmo2", {}),
    "phimoe": ("phimoe", {"num_local_experts": 4, "sliding_window": 2 * MAX_LENGTH}),
    "stablelm": ("stablelm", {"hidden_size": 64, "use_qkv_bias": True, "qk_layernorm": True}),
}
"""Not promised, but with something that the promised ones lack: sinks, multipliers, inputs scaled in place, a window
that no sequence leaves, keys that are values, a hybrid's code without its state."""


def make_model(family: str, folder: Path, *, seed: int = 4, **settings: Any) -> Any:
    """Save a random float32 model of the family in `folder`; returns it as transformers has it, in evaluation mode.

    `settings` go on top of the family's; `max_shard_size` is handed to `save_pretrained`. With `has_outliers`, two
    weights of each norm of the hidden state are far beyond the others, as in real models.
    """
    model_type, own = {**FAMILIES, **OTHERS}[family]
    return make_model_of(model_type, folder, seed=seed, **{**own, **settings})


def make_model_of(model_type: str, folder: Path, *, seed: int = 4, **settings: Any) -> Any:
    """The same for any model type of transformers, with `settings` on top of the common ones."""
    import torch
    from transformers import AutoConfig
    from transformers import AutoModelForCausalLM as AutoModel

    shard_size, has_outliers = settings.pop("max_shard_size", "1GB"), settings.pop("has_outliers", False)
    config = AutoConfig.for_model(model_type, **{**_PLAIN, **settings})
    config._attn_implementation = "eager"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(config, dtype=torch.float32).eval()
        _draw_weights(model)
        if has_outliers:
            _add_outliers(model)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder, max_shard_size=shard_size)
    return model


def _draw_weights(model: Any) -> None:
    """Matrices with a gain of about 1.5 per layer, vectors (norms, biases) around what they were."""
    import torch

    embeddings = model.get_input_embeddings().weight
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter is embeddings:
                # tied to the head, a large one would make every token predict itself
                parameter.normal_(std=0.03 if model.config.tie_word_embeddings else 1.0)
            elif parameter.dim() >= 2:
                parameter.normal_(std=1.5 / math.sqrt(parameter.shape[-1]))
            else:
                parameter.add_(torch.randn_like(parameter) * 0.2)


def _add_outliers(model: Any) -> None:
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight") and parameter.shape == (model.config.hidden_size,):
                parameter[5] += 90
                parameter[17] -= 40
