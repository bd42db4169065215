"""The weights of one stage: how big they are and in which dtype, and a model folder reduced to them.

SGLang reads every weight file that the index names and drops what it has no place for. Links to the needed files beside
an index that names no others make it read those alone.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch

from histrio.config.weights import read_layer_bytes
from histrio.contracts.backend import StageSpec
from histrio_torch.checkpoint import checkpoint_bytes, checkpoint_dtype, find_weight_files
from histrio_torch.families import read_config

__all__ = ["choose_dtype", "link_model", "weight_bytes"]

_INDEX = "model.safetensors.index.json"
_SMALL_CHECKPOINT_BYTES = 128_000_000
_LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")


def choose_dtype(spec: StageSpec, device: torch.device) -> str:
    """The dtype to compute in. Auto is the checkpoint's; small models on a CPU run in float32, and of quantized ones
    SGLang knows best."""
    files = find_weight_files(Path(spec.model))
    if spec.dtype != "auto":
        return spec.dtype

    if device.type == "cpu" and checkpoint_bytes(files) < _SMALL_CHECKPOINT_BYTES:
        return "float32"

    config = read_config(Path(spec.model))
    return "auto" if "quantization_config" in config else checkpoint_dtype(config, files)


def weight_bytes(spec: StageSpec, dtype: str) -> int:
    """Bytes of the stage's weights once they are loaded; quantized ones stay as they are stored."""
    folder = Path(spec.model)
    stored_bytes = read_layer_bytes(folder, spec.num_layers).of_range(spec.first_layer, spec.last_layer)
    config = read_config(folder)
    if dtype == "auto" or "quantization_config" in config:
        return stored_bytes

    stored: torch.dtype = getattr(torch, checkpoint_dtype(config, find_weight_files(folder)))
    loaded: torch.dtype = getattr(torch, dtype)
    return stored_bytes * loaded.itemsize // stored.itemsize


def link_model(spec: StageSpec, folder: Path) -> Path:
    """Fill the empty `folder` with links to the files of `spec.model` that the stage needs; returns the folder."""
    source = Path(spec.model).resolve()
    index = source / _INDEX
    files = {path for path in source.iterdir() if path.is_file()}
    if index.exists():
        content = json.loads(index.read_text(encoding="utf-8"))
        every = set(content["weight_map"].values())
        needed = {file for name, file in content["weight_map"].items() if _is_needed(name, spec)}
        content["weight_map"] = {name: file for name, file in content["weight_map"].items() if file in needed}
        (folder / _INDEX).write_text(json.dumps(content), encoding="utf-8")
        files = {path for path in files if path.name != _INDEX and path.name not in every - needed}
    for path in files:
        (folder / path.name).symlink_to(path)
    return folder


def _is_needed(name: str, spec: StageSpec) -> bool:
    layer = _LAYER.search(name)
    if layer is None:
        return spec.is_first or spec.is_last  # embeddings, the last norm, the head

    return spec.first_layer <= int(layer[1]) < spec.last_layer
