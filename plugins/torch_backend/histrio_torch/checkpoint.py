"""The weight files of a model folder: which they are, how big, in which dtype. Reads headers only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from histrio.config.weights import read_header, weight_files
from histrio.errors import ModelUnavailable, UnsupportedModel

__all__ = ["check_dtypes", "checkpoint_bytes", "checkpoint_dtype", "find_weight_files"]

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_FLOATS = {*_DTYPES, "F64"}


def find_weight_files(folder: Path) -> list[Path]:
    """The safetensors files, in the index's order. Raises `UnsupportedModel` for pickled ones, `ModelError`."""
    if (folder / _SINGLE).exists() or (folder / _INDEX).exists():
        return weight_files(folder)

    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    if pickled:
        raise UnsupportedModel(
            f"{folder} has only pickled weights ({pickled[0]}), which can run code when read; convert to safetensors"
        )

    raise ModelUnavailable(f"{folder} has neither {_SINGLE} nor {_INDEX}")


def check_dtypes(files: list[Path]) -> None:
    """Raise `UnsupportedModel` for weights that are no floating numbers: they would be read as such."""
    for file in files:
        for name, tensor in read_header(file).items():
            if name.endswith(".weight") and tensor.dtype not in _FLOATS:
                raise UnsupportedModel(
                    f"{file}: {name[:80]} is stored as {tensor.dtype}; use a checkpoint of float32, float16 or bfloat16"
                )


def checkpoint_bytes(files: list[Path]) -> int:
    """Size of all files together."""
    return sum(path.stat().st_size for path in files)


def checkpoint_dtype(config: Mapping[str, Any], files: list[Path]) -> str:
    """The dtype that config.json names, else that of the first tensor: float32, float16 or bfloat16."""
    named = config.get("dtype") or config.get("torch_dtype")
    if isinstance(named, str) and named.removeprefix("torch.") in _DTYPES.values():
        return named.removeprefix("torch.")

    stored = next((tensor.dtype for tensor in read_header(files[0]).values()), "none")
    if stored not in _DTYPES:
        raise UnsupportedModel(f"{files[0]}: weights are stored as {stored}; use float32, float16 or bfloat16")

    return _DTYPES[stored]
