"""The weights of one stage: how big they are, and a model folder reduced to them.

SGLang reads every weight file that the index names and drops what it has no place for. Links to the needed files beside
an index that names no others make it read those alone.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from histrio.config.weights import INDEX_FILE, read_layer_bytes
from histrio.contracts.backend import StageSpec
from histrio.kit.checkpoint import stored_dtype

__all__ = ["link_model", "weight_bytes"]

_NUM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")


def weight_bytes(spec: StageSpec, dtype: str) -> int:
    """Bytes of the stage's weights once they are loaded; quantized ones stay as they are stored."""
    folder = Path(spec.model)
    stored_bytes = read_layer_bytes(folder, spec.num_layers).of_range(spec.first_layer, spec.last_layer)
    stored = stored_dtype(folder)
    if "auto" in (dtype, stored):
        return stored_bytes

    return stored_bytes * _NUM_BYTES[dtype] // _NUM_BYTES[stored]


def link_model(spec: StageSpec, folder: Path) -> Path:
    """Fill the empty `folder` with links to the files of `spec.model` that the stage needs; returns the folder."""
    source = Path(spec.model).resolve()
    index = source / INDEX_FILE
    files = {path for path in source.iterdir() if path.is_file()}
    if index.exists():
        content = json.loads(index.read_text(encoding="utf-8"))
        every = set(content["weight_map"].values())
        needed = {file for name, file in content["weight_map"].items() if _is_needed(name, spec)}
        content["weight_map"] = {name: file for name, file in content["weight_map"].items() if file in needed}
        (folder / INDEX_FILE).write_text(json.dumps(content), encoding="utf-8")
        files = {path for path in files if path.name != INDEX_FILE and path.name not in every - needed}
    for path in files:
        (folder / path.name).symlink_to(path)
    return folder


def _is_needed(name: str, spec: StageSpec) -> bool:
    layer = _LAYER.search(name)
    if layer is None:
        return spec.is_first or spec.is_last  # embeddings, the last norm, the head

    return spec.first_layer <= int(layer[1]) < spec.last_layer
