"""Rotary positions: the frequencies that a configuration means, as transformers computes them.

Frequencies never depend on the batch. Where a kind has two tables of factors (LongRoPE), the longest sequence that the
stage accepts chooses: up to the model's original length the short one, else the long one. The same length gives the
base of dynamic NTK.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from histrio.errors import UnsupportedModel

__all__ = ["RopeShape", "RopeTable", "make_table"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RopeShape:
    """What frequencies depend on besides their own settings."""

    head_dim: int
    max_positions: int
    """`max_position_embeddings`."""
    max_sequence_length: int
    """The longest sequence of the stage."""


@dataclass(frozen=True)
class RopeTable:
    """Frequencies of the rotated pairs, and the factor on cos and sin."""

    inverse_frequencies: Floats
    scale: float = 1.0


def make_table(settings: Mapping[str, Any], shape: RopeShape) -> RopeTable:
    """The table of one kind of layers. `settings` has `rope_theta`, and what its `rope_type` needs.

    Raises `UnsupportedModel` for a kind that is not known here.
    """
    dim = int(shape.head_dim * settings.get("partial_rotary_factor", 1.0))
    powers = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    frequencies = np.float32(1) / np.float32(settings["rope_theta"]) ** powers
    kind = settings.get("rope_type") or settings.get("type") or "default"
    match kind:
        case "default":
            return RopeTable(frequencies)
        case "linear":
            return RopeTable(frequencies / np.float32(settings["factor"]))
        case "dynamic" if "alpha" not in settings:
            return RopeTable(_dynamic(powers, dim, settings, shape))
        case "llama3":
            return RopeTable(_llama3(frequencies, settings, shape))
        case "yarn":
            return RopeTable(_yarn(frequencies, dim, settings, shape), _yarn_scale(settings))
        case "longrope" | "su":
            return _longrope(frequencies, settings, shape)
    raise UnsupportedModel(f"its rotary positions are of the kind {str(kind)[:40]!r}")


def _original_length(settings: Mapping[str, Any], shape: RopeShape) -> int:
    return int(settings.get("original_max_position_embeddings") or shape.max_positions)


def _dynamic(powers: Floats, dim: int, settings: Mapping[str, Any], shape: RopeShape) -> Floats:
    """The base grows with the length beyond the model's own; here it is that of the longest sequence."""
    factor, length = float(settings["factor"]), max(shape.max_sequence_length, shape.max_positions)
    growth = factor * length / shape.max_positions - (factor - 1)
    return np.float32(1) / np.float32(settings["rope_theta"] * growth ** (dim / (dim - 2))) ** powers


def _llama3(frequencies: Floats, settings: Mapping[str, Any], shape: RopeShape) -> Floats:
    """Long wavelengths are stretched, short ones are not, and those between are blended."""
    factor, low, high = (float(settings[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    turns = _original_length(settings, shape) * frequencies / (2 * math.pi)
    share = np.clip((turns - low) / (high - low), 0, 1).astype(np.float32)
    blended: Floats = (1 - share) * frequencies / np.float32(factor) + share * frequencies
    return blended


def _yarn(frequencies: Floats, dim: int, settings: Mapping[str, Any], shape: RopeShape) -> Floats:
    """Pairs that turn often within the original length keep their frequency, those that hardly turn are stretched."""
    base, length = float(settings["rope_theta"]), _original_length(settings, shape)

    def pair_of(num_turns: float) -> float:
        return dim * math.log(length / (num_turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = pair_of(settings.get("beta_fast") or 32), pair_of(settings.get("beta_slow") or 1)
    if settings.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    stretched = np.clip((np.arange(dim // 2, dtype=np.float32) - low) / (high - low), 0, 1).astype(np.float32)
    mixed: Floats = frequencies / np.float32(settings["factor"]) * stretched + frequencies * (1 - stretched)
    return mixed


def _yarn_scale(settings: Mapping[str, Any]) -> float:
    given = settings.get("attention_factor")
    if given is not None:
        return float(given)

    factor = float(settings["factor"])
    mscale, of_all = settings.get("mscale"), settings.get("mscale_all_dim")
    if mscale and of_all:
        return _mscale(factor, mscale) / _mscale(factor, of_all)

    return _mscale(factor, 1.0)


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def _longrope(frequencies: Floats, settings: Mapping[str, Any], shape: RopeShape) -> RopeTable:
    original = _original_length(settings, shape)
    which = "long_factor" if shape.max_sequence_length > original else "short_factor"
    factors = np.asarray(settings.get(which) or [], np.float32)
    if factors.shape != frequencies.shape:
        raise UnsupportedModel(f"{which} in config.json has {factors.size} numbers for {frequencies.size} pairs")

    scale = settings.get("attention_factor")
    if scale is None:
        factor = settings.get("factor") or shape.max_positions / original
        scale = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return RopeTable(frequencies / factors, float(scale))
