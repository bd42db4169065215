"""The weight files of a model folder: which they are, how big, in which dtype. Reads headers only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from histrio.errors import ModelUnavailable, UnsupportedModel

__all__ = ["checkpoint_bytes", "checkpoint_dtype", "find_weight_files"]

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_MOST_HEADER_BYTES = 100_000_000


def find_weight_files(folder: Path) -> list[Path]:
    """The safetensors files, in the index's order. Raises `UnsupportedModel` for pickled ones, `ModelUnavailable`."""
    if (folder / _SINGLE).exists():
        return [folder / _SINGLE]

    if (folder / _INDEX).exists():
        return _indexed_files(folder)

    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    if pickled:
        raise UnsupportedModel(
            f"{folder} has only pickled weights ({pickled[0]}), which can run code when read; convert to safetensors"
        )

    raise ModelUnavailable(f"{folder} has neither {_SINGLE} nor {_INDEX}")


def checkpoint_bytes(files: list[Path]) -> int:
    """Size of all files together."""
    return sum(path.stat().st_size for path in files)


def checkpoint_dtype(config: Mapping[str, Any], files: list[Path]) -> str:
    """The dtype that config.json names, else that of the first tensor: float32, float16 or bfloat16."""
    named = config.get("dtype") or config.get("torch_dtype")
    if isinstance(named, str) and named.removeprefix("torch.") in _DTYPES.values():
        return named.removeprefix("torch.")

    stored = next((str(entry["dtype"]) for key, entry in _header(files[0]).items() if key != "__metadata__"), "none")
    if stored not in _DTYPES:
        raise UnsupportedModel(f"{files[0]}: weights are stored as {stored}; use float32, float16 or bfloat16")

    return _DTYPES[stored]


def _indexed_files(folder: Path) -> list[Path]:
    try:
        weight_map = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise UnsupportedModel(f"{folder / _INDEX} is not a safetensors index: {error!r}") from None

    files = [folder / name for name in dict.fromkeys(weight_map.values())]
    missing = [path.name for path in files if not path.exists()]
    if missing:
        raise ModelUnavailable(f"{folder} lacks {len(missing)} of {len(files)} weight files, first {missing[0]}")

    return files


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        num_bytes = int.from_bytes(file.read(8), "little")
        if num_bytes > _MOST_HEADER_BYTES:
            raise UnsupportedModel(f"{path} is not a safetensors file")

        header: dict[str, Any] = json.loads(file.read(num_bytes))
        return header
