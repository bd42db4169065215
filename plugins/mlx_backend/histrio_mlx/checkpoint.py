"""The weight files of a model, and the settings of an adapter. Reads no tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from histrio.config.model_files import read_json_object
from histrio.config.weights import weight_files
from histrio.errors import ModelUnavailable, UnsupportedModel

__all__ = ["check_adapter", "checkpoint_bytes", "find_weight_files"]


def find_weight_files(folder: Path) -> list[Path]:
    """The safetensors files. Raises `UnsupportedModel` for pickled ones, `ModelUnavailable` where one is missing."""
    weight_files(folder)
    files = sorted(folder.glob("model*.safetensors"))
    if files:
        return files

    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    if pickled:
        raise UnsupportedModel(
            f"{folder} has only pickled weights ({pickled[0]}), which can run code when read; convert to safetensors"
        )

    raise ModelUnavailable(f"{folder} has no model*.safetensors")


def checkpoint_bytes(files: list[Path]) -> int:
    """Size of all files together."""
    return sum(path.stat().st_size for path in files)


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
