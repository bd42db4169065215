"""What mlx-lm would compute wrongly, or not load at all, told from config.json before anything is loaded.

mlx-lm passes over keys that it does not know. A key that changes what a model says, and that its module neither reads
nor was judged with, is refused here by name.
"""

from __future__ import annotations

from typing import Any

from histrio.contracts.backend import StageSpec
from histrio.errors import UnsupportedModel
from histrio.kit.quantized import where_quantized_runs
from histrio_mlx.config import Config, layer_windows
from histrio_mlx.families import Family
from histrio_mlx.sources import ModelSource

__all__ = ["NEUTRAL", "check_config", "odd_keys", "overlooked_window"]

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention_in_multiplier": (1.0,),
    "attention_multiplier": (1.0,),
    "attention_out_multiplier": (1.0,),
    "attn_logit_softcapping": (None,),
    "clip_qkv": (None,),
    "embedding_multiplier": (1.0,),
    "final_logit_softcapping": (None,),
    "key_multiplier": (1.0,),
    "lm_head_multiplier": (1.0,),
    "logit_scale": (1.0,),
    "logits_scaling": (1.0,),
    "logits_soft_cap": (None,),
    "n_group": (1, None),
    "partial_rotary_factor": (1.0, None),
    "residual_multiplier": (1.0,),
    "rope_scaling": (None,),
    "rotary_pct": (1.0,),
    "routed_scaling_factor": (1.0, None),
    "scale_depth": (1.0,),
    "scale_emb": (1.0,),
    "topk_group": (1, None),
}
"""Keys that scale, cap or cut what a model computes, and the values at which they do nothing."""

_SAID_BY = {
    "partial_rotary_factor": {"rope_parameters", "rotary_dim", "rotary_pct"},
    "rope_scaling": {"rope_parameters"},
}
"""Keys that say the same, of which a module may read either."""
_METHODS = {"bitnet", "mxfp4", "mxfp8", "modelopt", "awq"}
_PACKED = ("pack-quantized", "nvfp4-pack-quantized", "mxfp4-pack-quantized")
_WITHOUT_WINDOWS = ("gemma2",)


def check_config(config: Config, spec: StageSpec, family: Family | None, source: ModelSource | None) -> None:
    """Raise `UnsupportedModel` for what this model can't do here; `config` is in mlx-lm's keys."""
    _check_quantization(config, source)
    _check_sparse_attention(config, spec)
    _check_windows(config, spec)
    if source is not None and source.keys is not None:
        _check_keys(config, family, source)


def odd_keys(config: Config) -> list[str]:
    """Keys of `NEUTRAL` that have an effect in this configuration."""
    return [key for key, neutral in NEUTRAL.items() if key in config and not _is_neutral(config[key], neutral)]


def _is_neutral(value: Any, neutral: tuple[Any, ...]) -> bool:
    if isinstance(value, dict):
        kind = value.get("rope_type") or value.get("type") or "default"
        return kind in ("default", "mrope") or (kind == "linear" and value.get("factor") == 1.0)

    return value in neutral


def _check_keys(config: Config, family: Family | None, source: ModelSource) -> None:
    keys = source.keys or {}
    missing = [key for key in source.required if key not in config]
    if missing:
        raise UnsupportedModel(
            f"mlx-lm's {config['model_type']} needs {', '.join(missing)} in config.json, which has no such key"
        )

    judged = family.judged_keys if family is not None else []
    read = {*judged, *keys, *(key for key, others in _SAID_BY.items() if not others.isdisjoint(keys))}
    ignored = [key for key in odd_keys(config) if key not in read]
    if ignored:
        raise UnsupportedModel(
            f"mlx-lm's {config['model_type']} does not read {', '.join(ignored)} of config.json, and would compute "
            "something else"
        )


def _check_sparse_attention(config: Config, spec: StageSpec) -> None:
    """DeepSeek-V3.2's indexer: up to `index_topk` tokens it chooses all; beyond, mlx-lm chooses others."""
    limit = config.get("index_topk")
    if isinstance(limit, int) and spec.max_sequence_length > limit:
        raise UnsupportedModel(
            f"beyond index_topk = {limit} tokens mlx-lm attends to others than a {config['model_type']} does: set "
            f"max-sequence-length to {limit} or less"
        )


def _check_windows(config: Config, spec: StageSpec) -> None:
    if config["model_type"] not in _WITHOUT_WINDOWS:
        return

    narrow = [window for window in layer_windows(config) if window is not None and window < spec.max_sequence_length]
    if narrow:
        raise overlooked_window(config, min(narrow))


def overlooked_window(config: Config, window: int) -> UnsupportedModel:
    """The error for a model whose sliding window mlx-lm does not apply."""
    return UnsupportedModel(
        f"mlx-lm runs all layers of a {config['model_type']} with full attention, which is right for sequences up "
        f"to its sliding window only: set max-sequence-length to {window} or less"
    )


def _check_quantization(config: Config, source: ModelSource | None) -> None:
    settings = config.get("quantization_config")
    if config.get("quantization") or not isinstance(settings, dict) or "quant_method" not in settings:
        return  # MLX's own form, or none

    method = str(settings["quant_method"]).lower()
    if method in _METHODS or (method == "fp8" and _reads_fp8(settings, source)):
        return
    if method == "compressed-tensors" and settings.get("format") in _PACKED:
        return

    name = {"fp8": "FP8", "gptq": "GPTQ", "compressed-tensors": f"compressed-tensors {settings.get('format')}"}
    raise UnsupportedModel(
        f"mlx-lm can't read weights quantized by {name.get(method, method)}: use the model in MLX's own format; "
        + where_quantized_runs(method)
    )


def _reads_fp8(settings: Config, source: ModelSource | None) -> bool:
    if settings.get("scale_fmt") == "ue8m0" and list(settings.get("weight_block_size") or ()) == [32, 32]:
        return True

    return source is not None and "weight_scale_inv" in source.text
