"""Weights that another program has quantized: which one, and which backend runs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["CPU_METHODS", "quantization_of", "quantization_settings", "where_quantized_runs"]

CPU_METHODS = ("awq", "compressed-tensors", "fbgemm_fp8", "fp8", "gptq", "mlx", "mxfp4")
"""Those that the backend `cpu` computes on."""


def quantization_settings(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a config.json says of quantized weights; MLX has a key of its own. Empty where it is no object."""
    settings = config.get("quantization_config") or config.get("quantization")
    if settings is None:
        return None
    return settings if isinstance(settings, Mapping) else {}


def quantization_of(config: Mapping[str, Any]) -> str | None:
    """`quant_method` of a config.json, `mlx` for MLX's own form, `unknown method` where it has no name.

    None where the weights are not quantized.
    """
    settings = quantization_settings(config)
    if settings is None:
        return None
    if "quant_method" in settings:
        return str(settings["quant_method"])[:40]
    return "mlx" if "group_size" in settings and "bits" in settings else "unknown method"


def where_quantized_runs(method: str) -> str:
    """What to do with weights of this method where a backend refuses them."""
    if method in CPU_METHODS:
        return "the backend `cpu` runs them: --backend cpu; or use a bfloat16, float16 or float32 checkpoint"
    return "SGLang may run them: --backend sglang; or use a bfloat16, float16 or float32 checkpoint"
