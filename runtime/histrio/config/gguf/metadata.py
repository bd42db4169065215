"""The metadata of a model's file, asked by key; wrong kinds of values are refused with file and key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from histrio.errors import ModelError, UnsupportedModel

__all__ = ["Metadata"]


class Metadata:
    """Keys that begin with a dot belong to the architecture: `.block_count` is `llama.block_count`."""

    def __init__(self, values: Mapping[str, Any], file: Path) -> None:
        """Raises `UnsupportedModel` where the file names no architecture."""
        self._values = values
        self.file = file
        architecture = values.get("general.architecture")
        if not isinstance(architecture, str):
            raise UnsupportedModel(f"{file} names no architecture (general.architecture), so it holds no model")
        self.architecture = architecture

    def has(self, key: str) -> bool:
        """Whether the file says anything of it."""
        return self._full(key) in self._values

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number; of a list with an entry for each layer, the one that all of them are."""
        value = self._scalar(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ModelError(f"{self.file}: {self._full(key)} must be a whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number, in the shortest spelling of its 32 bits: 1e-05 rather than 9.999999747378752e-06."""
        value = self._scalar(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ModelError(f"{self.file}: {self._full(key)} must be a number")
        return float(str(np.float32(value))) if isinstance(value, float) else float(value)

    def truth(self, key: str, default: bool) -> bool:
        """A truth value."""
        value = self._values.get(self._full(key), default)
        if not isinstance(value, bool):
            raise ModelError(f"{self.file}: {self._full(key)} must be a truth value")
        return value

    def text(self, key: str, default: str | None = None) -> str | None:
        """A string, or `default`."""
        value = self._values.get(self._full(key), default)
        if value is not default and not isinstance(value, str):
            raise ModelError(f"{self.file}: {self._full(key)} must be a string")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of strings, empty where there is none."""
        value = self._values.get(self._full(key), [])
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise ModelError(f"{self.file}: {self._full(key)} must be a list of strings")
        return value

    def numbers(self, key: str, count: int) -> list[float]:
        """A list of `count` finite numbers; empty where there is none."""
        value = self._values.get(self._full(key))
        if value is None:
            return []
        if not isinstance(value, np.ndarray) or len(value) != count or not np.isfinite(value).all():
            raise ModelError(f"{self.file}: {self._full(key)} must be a list of {count} numbers")
        found: list[float] = value.tolist()
        return found

    def token_id(self, name: str, num_tokens: int) -> int | None:
        """The id that `tokenizer.ggml.NAME_token_id` names, if it does; what is no token of the vocabulary is none."""
        key = f"tokenizer.ggml.{name}_token_id"
        value = self.whole(key, -1)
        return value if 0 <= value < num_tokens else None

    def _full(self, key: str) -> str:
        return self.architecture + key if key.startswith(".") else key

    def _scalar(self, key: str, default: float | None) -> Any:
        value = self._values.get(self._full(key), default)
        if value is None:
            raise ModelError(f"{self.file} does not say {self._full(key)}, which a model of this kind needs")
        if not isinstance(value, np.ndarray):
            return value
        if not len(value) or (value != value[0]).any():
            raise UnsupportedModel(
                f"{self.file}: {self._full(key)} differs from layer to layer, which no model that is served has"
            )
        return value[0].item()
