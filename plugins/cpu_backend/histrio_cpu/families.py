"""The families of models that this backend runs: what each has beside the plainest decoder, Llama."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from histrio_cpu.abi import LayerFlags, Norm, Tensor
from histrio_cpu.model import Names

__all__ = ["FAMILIES", "FULL", "QK_NORMS", "SLIDING", "Config", "Family"]

Config = Mapping[str, Any]

SLIDING, FULL = "sliding_attention", "full_attention"
"""Types of layers, as configurations name them."""
_NO_FLAGS = LayerFlags(0)

_NORMS_BEFORE: Names = {
    "input_layernorm.weight": (Tensor.ATTN_NORM,),
    "post_attention_layernorm.weight": (Tensor.MLP_NORM,),
}
_ATTENTION: Names = {
    "self_attn.q_proj.weight": (Tensor.Q,),
    "self_attn.k_proj.weight": (Tensor.K,),
    "self_attn.v_proj.weight": (Tensor.V,),
    "self_attn.o_proj.weight": (Tensor.O,),
    "self_attn.q_proj.bias": (Tensor.Q_BIAS,),
    "self_attn.k_proj.bias": (Tensor.K_BIAS,),
    "self_attn.v_proj.bias": (Tensor.V_BIAS,),
    "self_attn.o_proj.bias": (Tensor.O_BIAS,),
}
QK_NORMS: Names = {"self_attn.q_norm.weight": (Tensor.Q_NORM,), "self_attn.k_norm.weight": (Tensor.K_NORM,)}
_MLP: Names = {
    "mlp.gate_proj.weight": (Tensor.GATE,),
    "mlp.up_proj.weight": (Tensor.UP,),
    "mlp.down_proj.weight": (Tensor.DOWN,),
    "mlp.gate_proj.bias": (Tensor.GATE_BIAS,),
    "mlp.up_proj.bias": (Tensor.UP_BIAS,),
    "mlp.down_proj.bias": (Tensor.DOWN_BIAS,),
}
_FUSED_MLP: Names = {"mlp.gate_up_proj.weight": (Tensor.GATE, Tensor.UP), "mlp.down_proj.weight": (Tensor.DOWN,)}
_PLAIN: Names = {**_NORMS_BEFORE, **_ATTENTION, **_MLP}
_GEMMA_NORMS: Names = {
    "input_layernorm.weight": (Tensor.ATTN_NORM,),
    "post_attention_layernorm.weight": (Tensor.POST_ATTN_NORM,),
    "pre_feedforward_layernorm.weight": (Tensor.MLP_NORM,),
    "post_feedforward_layernorm.weight": (Tensor.POST_MLP_NORM,),
}
_GLM_POST_NORMS: Names = {
    "post_self_attn_layernorm.weight": (Tensor.POST_ATTN_NORM,),
    "post_mlp_layernorm.weight": (Tensor.POST_MLP_NORM,),
}
_GPT_OSS_EXPERTS: Names = {
    "mlp.router.weight": (Tensor.ROUTER,),
    "mlp.router.bias": (Tensor.ROUTER_BIAS,),
    "mlp.experts.{expert}.gate_proj.weight": (Tensor.GATE,),
    "mlp.experts.{expert}.up_proj.weight": (Tensor.UP,),
    "mlp.experts.{expert}.down_proj.weight": (Tensor.DOWN,),
    "mlp.experts.{expert}.gate_proj.bias": (Tensor.GATE_BIAS,),
    "mlp.experts.{expert}.up_proj.bias": (Tensor.UP_BIAS,),
    "mlp.experts.{expert}.down_proj.bias": (Tensor.DOWN_BIAS,),
}
_QWEN_EXPERTS: Names = {
    "mlp.gate.weight": (Tensor.ROUTER,),
    "mlp.experts.{expert}.gate_proj.weight": (Tensor.GATE,),
    "mlp.experts.{expert}.up_proj.weight": (Tensor.UP,),
    "mlp.experts.{expert}.down_proj.weight": (Tensor.DOWN,),
}
_MIXTRAL_EXPERTS: Names = {
    "block_sparse_moe.gate.weight": (Tensor.ROUTER,),
    "block_sparse_moe.experts.{expert}.w1.weight": (Tensor.GATE,),
    "block_sparse_moe.experts.{expert}.w3.weight": (Tensor.UP,),
    "block_sparse_moe.experts.{expert}.w2.weight": (Tensor.DOWN,),
}


def _all_full(config: Config) -> list[str]:
    return [FULL] * config["num_hidden_layers"]


def _all_sliding(config: Config) -> list[str]:
    return [SLIDING if config.get("sliding_window") else FULL] * config["num_hidden_layers"]


def _qwen_types(config: Config) -> list[str]:
    """The upper layers slide, and only where the switch is on."""
    if not config.get("use_sliding_window"):
        return _all_full(config)

    first = config["max_window_layers"]
    return config.get("layer_types") or [SLIDING if i >= first else FULL for i in range(config["num_hidden_layers"])]


def _switched_sliding(config: Config) -> list[str]:
    return _all_sliding(config) if config.get("use_sliding_window") else _all_full(config)


def _mixed_types(config: Config) -> list[str]:
    """Every `sliding_window_pattern`-th layer sees everything."""
    every = config["sliding_window_pattern"]
    count = config["num_hidden_layers"]
    return config.get("layer_types") or [SLIDING if (i + 1) % every else FULL for i in range(count)]


def _smollm3_types(config: Config) -> list[str]:
    if not config.get("use_sliding_window") or not config.get("sliding_window"):
        return _all_full(config)

    return config.get("layer_types") or [FULL if has_rope else SLIDING for has_rope in _smollm3_ropes(config)]


def _smollm3_ropes(config: Config) -> list[bool]:
    given, every = config.get("no_rope_layers"), config["no_rope_layer_interval"]
    if given:
        return [bool(each) for each in given]

    return [(i + 1) % every != 0 for i in range(config["num_hidden_layers"])]


@dataclass(frozen=True, kw_only=True)
class Family:
    """How a family differs from Llama."""

    names: Names = field(default_factory=lambda: _PLAIN)
    expert_names: Names = field(default_factory=dict)
    defaults: Config = field(default_factory=dict)
    """What transformers takes where config.json leaves a key out."""
    flags: LayerFlags = _NO_FLAGS
    layer_types: Callable[[Config], list[str]] = _all_full
    norm: Norm = Norm.RMS
    norm_offset: float = 0.0
    scales_embedding: bool = False
    rope_layers: Callable[[Config], list[bool]] | None = None
    """Which layers rotate; None: all."""


_GEMMA = {"tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh", "head_dim": 256, "rms_norm_eps": 1e-6}
_MIXED = {"sliding_window": 4096, "query_pre_attn_scalar": 256}
_COHERE = {"tie_word_embeddings": True, "logit_scale": 0.0625, "layer_norm_eps": 1e-5}
_GLM = {"partial_rotary_factor": 0.5, "head_dim": 128, "rms_norm_eps": 1.5625e-07}
_QWEN = {"max_window_layers": 28, "sliding_window": 4096}
_COHERE_NAMES: Names = {"input_layernorm.weight": (Tensor.ATTN_NORM,), **_ATTENTION, **_MLP}
_GPT_OSS_ROPE = {
    **{"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False},
    "original_max_position_embeddings": 4096,
}
_OLMO_NAMES: Names = {
    "post_attention_layernorm.weight": (Tensor.POST_ATTN_NORM,),
    "post_feedforward_layernorm.weight": (Tensor.POST_MLP_NORM,),
    **_ATTENTION,
    **QK_NORMS,
    **_MLP,
}

FAMILIES: Mapping[str, Family] = {
    "llama": Family(),
    "mistral": Family(layer_types=_all_sliding, defaults={"num_key_value_heads": 8, "sliding_window": 4096}),
    "mixtral": Family(
        names={},
        expert_names={**_NORMS_BEFORE, **_ATTENTION, **_MIXTRAL_EXPERTS},
        layer_types=_all_sliding,
        flags=LayerFlags.ROUTER_RENORMALIZE,
        defaults={
            **{"num_key_value_heads": 8, "rope_theta": 1e6, "rms_norm_eps": 1e-5},
            "num_experts_per_tok": 2,
        },
    ),
    "qwen2": Family(layer_types=_qwen_types, defaults=_QWEN),
    "qwen3": Family(
        names={**_PLAIN, **QK_NORMS},
        flags=LayerFlags.QK_NORM,
        layer_types=_qwen_types,
        defaults={**_QWEN, "head_dim": 128},
    ),
    "qwen3_moe": Family(
        names={**_PLAIN, **QK_NORMS},
        expert_names={**_NORMS_BEFORE, **_ATTENTION, **QK_NORMS, **_QWEN_EXPERTS},
        flags=LayerFlags.QK_NORM,
        layer_types=_switched_sliding,
        defaults={
            **{"num_key_value_heads": 4, "sliding_window": 4096},
            **{"moe_intermediate_size": 768, "num_experts_per_tok": 8},
        },
    ),
    "gpt_oss": Family(
        names={},
        expert_names={**_NORMS_BEFORE, **_ATTENTION, "self_attn.sinks": (Tensor.SINKS,), **_GPT_OSS_EXPERTS},
        layer_types=_mixed_types,
        flags=LayerFlags.ROUTER_RENORMALIZE,
        defaults={
            **{"num_key_value_heads": 8, "head_dim": 64, "rms_norm_eps": 1e-5, "rope_theta": 1.5e5},
            **{"sliding_window": 128, "sliding_window_pattern": 2, "num_experts_per_tok": 4},
            **{"swiglu_alpha": 1.702, "swiglu_limit": 7.0, "rope_scaling": _GPT_OSS_ROPE},
        },
    ),
    "gemma": Family(norm_offset=1.0, scales_embedding=True, defaults=_GEMMA),
    "gemma2": Family(
        names={**_GEMMA_NORMS, **_ATTENTION, **_MLP},
        norm_offset=1.0,
        scales_embedding=True,
        layer_types=_mixed_types,
        defaults={
            **_GEMMA,
            **_MIXED,
            **{"sliding_window_pattern": 2, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        },
    ),
    "gemma3_text": Family(
        names={**_GEMMA_NORMS, **_ATTENTION, **QK_NORMS, **_MLP},
        norm_offset=1.0,
        scales_embedding=True,
        flags=LayerFlags.QK_NORM,
        layer_types=_mixed_types,
        defaults={**_GEMMA, **_MIXED, "sliding_window_pattern": 6, "rope_theta": 1e6, "rope_local_base_freq": 1e4},
    ),
    "phi3": Family(
        names={
            **_NORMS_BEFORE,
            "self_attn.qkv_proj.weight": (Tensor.Q, Tensor.K, Tensor.V),
            "self_attn.o_proj.weight": (Tensor.O,),
            **_FUSED_MLP,
        },
        layer_types=_all_sliding,
        defaults={"rms_norm_eps": 1e-5},
    ),
    "cohere": Family(
        names=_COHERE_NAMES,
        flags=LayerFlags.PARALLEL | LayerFlags.ROPE_INTERLEAVED,
        norm=Norm.LAYER,
        defaults={**_COHERE, "rope_theta": 5e5},
    ),
    "cohere2": Family(
        names=_COHERE_NAMES,
        flags=LayerFlags.PARALLEL | LayerFlags.ROPE_INTERLEAVED,
        norm=Norm.LAYER,
        layer_types=_mixed_types,
        rope_layers=lambda config: [each == SLIDING for each in _mixed_types(config)],
        defaults={**_COHERE, "sliding_window": 4096, "sliding_window_pattern": 4},
    ),
    "glm": Family(
        names={**_NORMS_BEFORE, **_ATTENTION, **_FUSED_MLP}, flags=LayerFlags.ROPE_INTERLEAVED, defaults=_GLM
    ),
    "glm4": Family(
        names={**_NORMS_BEFORE, **_GLM_POST_NORMS, **_ATTENTION, **_FUSED_MLP},
        flags=LayerFlags.ROPE_INTERLEAVED,
        defaults=_GLM,
    ),
    "smollm3": Family(
        layer_types=_smollm3_types,
        rope_layers=_smollm3_ropes,
        defaults={"tie_word_embeddings": True, "rope_theta": 2e6, "no_rope_layer_interval": 4},
    ),
    "olmo2": Family(names=_OLMO_NAMES, flags=LayerFlags.QK_NORM_WHOLE, defaults={"rms_norm_eps": 1e-5}),
    "granite": Family(
        defaults={
            **{"attention_multiplier": 1.0, "embedding_multiplier": 1.0},
            **{"residual_multiplier": 1.0, "logits_scaling": 1.0},
        }
    ),
}
"""Model type → family."""
