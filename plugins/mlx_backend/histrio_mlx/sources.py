"""What mlx-lm's modules read of a config.json, found in their source: importing mlx-lm takes seconds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import msgspec

__all__ = ["ModelSource", "find_source"]

_ARGUMENTS = re.compile(r"^class ModelArgs\(BaseModelArgs\):\n((?:    .*\n|\n)+)", re.MULTILINE)
_FIELD = re.compile(r"^    ([a-zA-Z_]\w*)\s*:[^=\n]*(=?)", re.MULTILINE)


class ModelSource(msgspec.Struct, frozen=True):
    """One of mlx-lm's model files."""

    text: str
    keys: Mapping[str, bool] | None
    """Keys that its arguments have, and whether each must be there; None where the file doesn't say so plainly."""

    @property
    def required(self) -> list[str]:
        """Keys without a default."""
        return [key for key, is_required in (self.keys or {}).items() if is_required]


@cache
def find_source(model_type: str) -> ModelSource | None:
    """The installed mlx-lm's file of a model type, by the file's own name; None if it has none."""
    spec = find_spec("mlx_lm")
    if spec is None or not spec.submodule_search_locations:
        return None

    path = Path(spec.submodule_search_locations[0], "models", f"{model_type}.py")
    if not model_type.isascii() or not path.is_file():
        return None

    text = path.read_text(encoding="utf-8")
    return ModelSource(text, _keys(text))


def _keys(text: str) -> Mapping[str, bool] | None:
    """Fields of the dataclass `ModelArgs`, unless it makes them of something else by itself.

    Read as text: Python 3.11's parser fails now and then where two threads use it at once.
    """
    found = _ARGUMENTS.search(text)
    if found is None or "def from_dict" in found[1]:
        return None

    return {name: not default for name, default in _FIELD.findall(found[1])}
