"""What a config.json means: `Model`, by its family. What no family here says is refused by name."""

from __future__ import annotations

from collections.abc import Mapping

from histrio.errors import UnsupportedModel
from histrio_cpu.abi import Activation, LayerConfig, LayerFlags, Norm
from histrio_cpu.families import FAMILIES, FULL, QK_NORMS, SLIDING, Config, Family
from histrio_cpu.model import Model
from histrio_cpu.quantized.layouts import check_layout
from histrio_cpu.rope import RopeShape, RopeTable, make_table

__all__ = ["read_model"]

_ACTIVATIONS = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
}
_DEFAULTS: Config = {
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "max_position_embeddings": 2048,
}


def read_model(config: Config, max_sequence_length: int) -> Model:
    """What a config.json without nulls means. Raises `UnsupportedModel` for what only torch runs."""
    check_layout(config)
    name = str((config.get("architectures") or [config.get("model_type")])[0])
    try:
        return _read(config, max_sequence_length)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{name} does not run on the cpu backend: {error}; use the torch backend") from None
    except (KeyError, TypeError, IndexError) as error:
        raise UnsupportedModel(f"config.json of {name} does not describe the model: {error!r}") from None


def _read(given: Config, max_sequence_length: int) -> Model:
    family = FAMILIES.get(str(given.get("model_type")))
    if family is None:
        raise UnsupportedModel(f"its type {str(given.get('model_type'))[:40]!r} is none of {', '.join(FAMILIES)}")

    if given.get("use_bidirectional_attention") or given.get("is_causal") is False:
        raise UnsupportedModel("its attention is bidirectional")

    config = {**_DEFAULTS, **family.defaults, **given}
    types = family.layer_types(config)
    unknown = set(types) - {SLIDING, FULL}
    if unknown:
        raise UnsupportedModel(f"it has layers of the type {min(unknown)[:40]!r}")

    ropes = _ropes(config, max_sequence_length)
    rotates = family.rope_layers(config) if family.rope_layers else [True] * config["num_hidden_layers"]
    tables = list(ropes.values())
    return Model(
        hidden=config["hidden_size"],
        vocab=config["vocab_size"],
        layers=[
            _layer(config, family, index, list(ropes).index(types[index]) if rotates[index] else -1, types[index])
            for index in range(config["num_hidden_layers"])
        ],
        ropes=tables,
        dense_names={**family.names, **QK_NORMS} if config.get("use_qk_norm") else family.names,
        expert_names=family.expert_names,
        is_tied=config["tie_word_embeddings"],
        norm=family.norm,
        norm_eps=config["layer_norm_eps" if family.norm == Norm.LAYER else "rms_norm_eps"],
        norm_offset=family.norm_offset,
        embedding_scale=_embedding_scale(config, family),
        logit_scale=config.get("logit_scale", 1.0) / config.get("logits_scaling", 1.0),
        logit_softcap=config.get("final_logit_softcapping", 0.0),
    )


def _layer(config: Config, family: Family, index: int, rope: int, layer_type: str) -> LayerConfig:
    heads = config["num_attention_heads"]
    head_dim = _head_dim(config)
    num_experts = _num_experts(config, family, index)
    flags = family.flags
    if config.get("use_qk_norm"):
        flags |= LayerFlags.QK_NORM_CENTRED
    if config.get("norm_topk_prob"):
        flags |= LayerFlags.ROUTER_RENORMALIZE
    scale = config.get("attention_multiplier", config.get("query_pre_attn_scalar", head_dim) ** -0.5)
    has_own_width = num_experts > 0 and "moe_intermediate_size" in config
    return LayerConfig(
        num_heads=heads,
        num_kv_heads=config.get("num_key_value_heads", heads),
        head_dim=head_dim,
        intermediate=config["moe_intermediate_size" if has_own_width else "intermediate_size"],
        activation=_activation(config),
        gate_alpha=config.get("swiglu_alpha", 0.0),
        gate_limit=config.get("swiglu_limit", 0.0),
        flags=flags,
        window=config["sliding_window"] if layer_type == SLIDING else 0,
        rope=rope,
        attention_scale=scale,
        attention_softcap=config.get("attn_logit_softcapping", 0.0) if config["model_type"] == "gemma2" else 0.0,
        residual_scale=config.get("residual_multiplier", 1.0),
        num_experts=num_experts,
        experts_per_token=config["num_experts_per_tok"] if num_experts else 0,
    )


def _embedding_scale(config: Config, family: Family) -> float:
    return float(config["hidden_size"] ** 0.5 if family.scales_embedding else config.get("embedding_multiplier", 1.0))


def _head_dim(config: Config) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _num_experts(config: Config, family: Family, index: int) -> int:
    """Zero for a dense layer."""
    is_dense = index in config.get("mlp_only_layers", []) or (index + 1) % config.get("decoder_sparse_step", 1)
    if not family.expert_names or is_dense:
        return 0

    return int(config.get("num_experts") or config["num_local_experts"])


def _activation(config: Config) -> Activation:
    """Gemma's own key comes first; its `gelu` always meant the approximation."""
    if config["model_type"] == "gpt_oss":
        return Activation.CLIPPED
    name = config.get("hidden_activation") or config["hidden_act"]
    if name == "gelu" and str(config["model_type"]).startswith("gemma"):
        return Activation.GELU_TANH
    if name not in _ACTIVATIONS:
        raise UnsupportedModel(f"its activation {str(name)[:40]!r} is none of {', '.join(_ACTIVATIONS)}")

    return _ACTIVATIONS[name]


def _ropes(config: Config, max_sequence_length: int) -> dict[str, RopeTable]:
    """Type of layers → its frequencies."""
    shape = RopeShape(_head_dim(config), config["max_position_embeddings"], max_sequence_length)
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    nested = any(isinstance(each, Mapping) for each in given.values())
    by_type = given if nested else {FULL: given, SLIDING: given}
    if config["model_type"] == "gemma3_text" and not nested:
        by_type = {FULL: given, SLIDING: {"rope_theta": config["rope_local_base_freq"]}}
    return {kind: make_table(_settings(config, by_type.get(kind) or {}, kind), shape) for kind in (FULL, SLIDING)}


def _settings(config: Config, table: Config, kind: str) -> Config:
    """A table of config.json, with what stands beside it or is taken for granted."""
    local = config["model_type"] == "gemma3_text" and kind == SLIDING
    settings = {"rope_theta": config["rope_local_base_freq" if local else "rope_theta"], **table}
    settings.setdefault("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if "original_max_position_embeddings" in config:
        settings["original_max_position_embeddings"] = config["original_max_position_embeddings"]
    if config["model_type"] == "phi3" and settings.get("rope_type", settings.get("type")) in ("su", "yarn"):
        settings["rope_type"] = "longrope"
    return settings
