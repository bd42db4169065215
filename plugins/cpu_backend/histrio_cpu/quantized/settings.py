"""What a config.json says of its quantized weights, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from histrio.errors import ModelError

__all__ = ["Settings", "read_settings"]


class _Scheme(msgspec.Struct, frozen=True):
    num_bits: int | None = None
    type: str = "int"


class _Group(msgspec.Struct, frozen=True):
    weights: _Scheme | None = None


class Settings(msgspec.Struct, frozen=True):
    """The keys of all quantizers; each has its own ones."""

    bits: int | None = None
    """Of MLX, GPTQ and AWQ."""
    w_bit: int | None = None
    """AWQ's other name for it."""
    group_size: int | None = None
    sym: bool = True
    desc_act: bool = False
    checkpoint_format: str = "gptq"
    version: str = "gemm"
    mode: str = "affine"
    """Of MLX."""
    weight_block_size: tuple[int, int] | None = None
    format: str = "pack-quantized"
    """Of compressed-tensors."""
    config_groups: dict[str, _Group] = {}


def read_settings(given: Mapping[str, Any], stem: str = "") -> Settings:
    """The settings; MLX has others for single layers, by the `stem` of their names. Raises `ModelError`."""
    own = given.get(stem)
    keys = {**given, **own} if isinstance(own, Mapping) else given
    try:
        return msgspec.convert({key: value for key, value in keys.items() if value is not None}, Settings)
    except msgspec.ValidationError as error:
        raise ModelError(f"config.json says of its quantized weights what cannot be: {error}") from None
