"""The number formats of a model's weights that torch would read wrongly."""

from __future__ import annotations

from pathlib import Path

from histrio.config.weights import read_header
from histrio.errors import UnsupportedModel

__all__ = ["check_dtypes"]

_FLOATS = ("F32", "F16", "BF16", "F64")


def check_dtypes(files: list[Path]) -> None:
    """Raise `UnsupportedModel` for weights that are no floating numbers: they would be read as such."""
    for file in files:
        for name, tensor in read_header(file).items():
            if name.endswith(".weight") and tensor.dtype not in _FLOATS:
                raise UnsupportedModel(
                    f"{file}: {name[:80]} is stored as {tensor.dtype}; use a checkpoint of float32, float16 or bfloat16"
                )
