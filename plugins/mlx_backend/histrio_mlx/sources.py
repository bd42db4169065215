"""What mlx-lm's modules read of a config.json, found in their source: importing mlx-lm takes seconds."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import msgspec

__all__ = ["ModelSource", "find_source"]


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
    """Fields of the dataclass `ModelArgs`, unless it makes them of something else by itself."""
    classes = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}
    found = classes.get("ModelArgs")
    if found is None or [ast.unparse(base) for base in found.bases] != ["BaseModelArgs"]:
        return None

    if any(isinstance(node, ast.FunctionDef) and node.name == "from_dict" for node in found.body):
        return None

    fields = [node for node in found.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    return {ast.unparse(field.target): field.value is None for field in fields}
