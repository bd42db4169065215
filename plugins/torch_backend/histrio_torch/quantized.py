"""Why weights that another program has quantized are not run by torch, and what runs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from histrio.kit.quantized import quantization_of, where_quantized_runs

__all__ = ["quantized_refusal"]

_NEEDS = {
    "awq": "the package gptqmodel",
    "bitsandbytes": "the package bitsandbytes",
    "compressed-tensors": "the package compressed-tensors",
    "fbgemm_fp8": "kernels for GPUs",
    "fp8": "kernels for GPUs",
    "gptq": "the package gptqmodel",
    "mlx": "weights in another form",
    "mxfp4": "kernels for GPUs",
}
"""Method → what transformers computes on such weights with."""


def quantized_refusal(config: Mapping[str, Any]) -> str | None:
    """Why quantized weights are not run; None where they are not quantized."""
    method = quantization_of(config)
    if method is None:
        return None

    needs = _NEEDS.get(method, "a package of the quantizer")
    return f"its weights are quantized ({method}), for which transformers needs {needs}; {where_quantized_runs(method)}"
