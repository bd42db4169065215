"""The weight files of a model, and the settings of an adapter. Reads no tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from histrio.errors import ModelUnavailable, UnsupportedModel

__all__ = ["check_adapter", "checkpoint_bytes", "find_weight_files"]

_INDEX = "model.safetensors.index.json"


def find_weight_files(folder: Path) -> list[Path]:
    """The safetensors files. Raises `UnsupportedModel` for pickled ones, `ModelUnavailable` where one is missing."""
    files = sorted(folder.glob("model*.safetensors"))
    missing = [name for name in _indexed_names(folder) if not (folder / name).exists()]
    if missing:
        raise ModelUnavailable(f"{folder} lacks {len(missing)} of its weight files, first {missing[0]}")

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
    try:
        config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelUnavailable(f"{folder} has no adapter_config.json") from None
    except ValueError as error:
        raise UnsupportedModel(f"{folder / 'adapter_config.json'} is not JSON: {error}") from None

    if "peft_type" in config:
        raise UnsupportedModel(f"{folder} is an adapter in PEFT's format; convert it to mlx-lm's")

    kind = config.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora") or "lora_parameters" not in config:
        raise UnsupportedModel(f"{folder}: an adapter of type {kind!r} can't be applied; lora and dora can")

    if not (folder / "adapters.safetensors").exists():
        raise ModelUnavailable(f"{folder} has no adapters.safetensors")

    return config


def _indexed_names(folder: Path) -> list[str]:
    if not (folder / _INDEX).exists():
        return []

    try:
        weight_map = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"]
        return sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnsupportedModel(f"{folder / _INDEX} is not a safetensors index: {error!r}") from None
