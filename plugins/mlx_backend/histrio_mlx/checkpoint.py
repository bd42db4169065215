"""The files that mlx-lm reads: the weights of a model, and the settings of an adapter. Reads no tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from histrio.config.model_files import read_json_object
from histrio.errors import ModelUnavailable, UnsupportedModel

__all__ = ["WEIGHT_FILES", "check_adapter"]

WEIGHT_FILES = "model*.safetensors"
"""Names of the files that mlx-lm reads, with an index or without."""


def check_adapter(folder: Path) -> dict[str, Any]:
    """The adapter's settings, with files and kind checked. Raises `ModelUnavailable`, `UnsupportedModel`."""
    config = read_json_object(folder / "adapter_config.json")
    if "peft_type" in config:
        raise UnsupportedModel(f"{folder} is an adapter in PEFT's format; convert it to mlx-lm's")

    kind = config.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora") or "lora_parameters" not in config:
        raise UnsupportedModel(f"{folder}: an adapter of type {kind!r} can't be applied; lora and dora can")

    if not (folder / "adapters.safetensors").exists():
        raise ModelUnavailable(f"{folder} has no adapters.safetensors")

    return config
