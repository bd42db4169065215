"""How a GGUF file rotates positions, as config.json says it.

Llama 3 and LongRoPE stand in the file as finished tables, one factor for each frequency; the numbers that Llama 3's
table was computed of are found again by computing tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from histrio.config.gguf.metadata import Metadata
from histrio.errors import ModelError, UnsupportedModel

__all__ = ["rotary_config"]

Values = Callable[[str], npt.NDArray[np.float32] | None]
_PARTIAL = ("phi3", "glm4")
"""Architectures that may rotate a part of each head only."""
_LLAMA3_LOW, _LLAMA3_HIGH = 1.0, 4.0
_LLAMA3_CONTEXTS = (8192, *(2**bits for bits in range(11, 20) if bits != 13))
"""Original contexts, the published one first."""
_TOLERANCE = 1e-3
_DEFAULT_BASE = 10_000.0


def rotary_config(metadata: Metadata, head_dim: int, values: Values) -> dict[str, Any]:
    """`rope_theta`, `rope_scaling`, and the part of a head that is rotated. Raises `UnsupportedModel`."""
    base = metadata.number(".rope.freq_base", _DEFAULT_BASE)
    rotated = metadata.whole(".rope.dimension_count", head_dim)
    config: dict[str, Any] = {"rope_theta": base, "rope_scaling": _scaling(metadata, base, rotated, values)}
    if metadata.architecture in _PARTIAL:
        return config | {"partial_rotary_factor": rotated / head_dim}
    if rotated != head_dim:
        raise UnsupportedModel(f"{metadata.file} rotates {rotated} of {head_dim} dimensions of each head")
    return config


def _scaling(metadata: Metadata, base: float, rotated: int, values: Values) -> dict[str, Any] | None:
    factors = values("rope_freqs.weight")
    if factors is not None:
        return _llama3(metadata, factors, base, rotated)
    short, long = values("rope_factors_short.weight"), values("rope_factors_long.weight")
    if short is not None and long is not None:
        return {"rope_type": "longrope", "short_factor": _spelled(short), "long_factor": _spelled(long)}

    kind = metadata.text(".rope.scaling.type", "none")
    factor = metadata.number(".rope.scaling.factor", metadata.number(".rope.scale_linear", 1.0))
    if kind == "none" and factor != 1.0 and metadata.has(".rope.scale_linear"):
        kind = "linear"
    match kind:
        case "none":
            return None
        case "linear":
            return {"rope_type": "linear", "factor": factor} if factor != 1.0 else None
        case "yarn":
            return _yarn(metadata, factor)
    raise UnsupportedModel(f"{metadata.file}: rotary positions of the kind {str(kind)[:40]!r} are not read")


def _yarn(metadata: Metadata, factor: float) -> dict[str, Any]:
    found: dict[str, Any] = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": metadata.whole(".rope.scaling.original_context_length"),
    }
    for theirs, ours in (("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")):
        if metadata.has(f".rope.scaling.{theirs}"):
            found[ours] = metadata.number(f".rope.scaling.{theirs}")
    if metadata.architecture == "gpt-oss":
        return {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": False} | found
    attention = metadata.number(".rope.scaling.attn_factor", 1.0)
    if attention != 1.0:
        found["attention_factor"] = attention * (0.1 * math.log(factor) + 1.0)
    return found


def _llama3(metadata: Metadata, factors: npt.NDArray[np.float32], base: float, rotated: int) -> dict[str, Any]:
    """The table is 1 for high frequencies, the factor for low ones, and goes from one to the other between."""
    if len(factors) != rotated // 2:
        raise ModelError(
            f"{metadata.file}: rope_freqs.weight has {len(factors)} numbers for {rotated // 2} frequencies"
        )

    factor = float(str(factors.max()))
    for original in _LLAMA3_CONTEXTS:
        table = _llama3_table(base, rotated, factor, original)
        if np.allclose(factors, table, rtol=_TOLERANCE):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": _LLAMA3_LOW,
                "high_freq_factor": _LLAMA3_HIGH,
                "original_max_position_embeddings": original,
            }
    raise UnsupportedModel(
        f"{metadata.file}: its table of rotary positions (rope_freqs.weight) is not one of Llama 3's; take the "
        "safetensors form of the model"
    )


def _llama3_table(base: float, rotated: int, factor: float, original: int) -> npt.NDArray[np.float64]:
    wavelengths = 2 * math.pi * base ** (np.arange(0, rotated, 2) / rotated)
    share = np.clip((original / wavelengths - _LLAMA3_LOW) / (_LLAMA3_HIGH - _LLAMA3_LOW), 0.0, 1.0)
    table: npt.NDArray[np.float64] = 1 / ((1 - share) / factor + share)
    return table


def _spelled(values: npt.NDArray[np.float32]) -> list[float]:
    """Each in the shortest spelling of its 32 bits."""
    return [float(str(value)) for value in values]
