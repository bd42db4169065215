"""Tiny random models of every family: their configurations ship as `configs.json`, their weights are drawn here."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from histrio_mlx.compat import model_classes

__all__ = ["configs", "write_model"]

_SEED = 3
_NOISE, _CONSTANT_NOISE = 0.05, 0.3
"""On what mlx-lm draws, and on what it fills with one value: zeros that would close a gate or forget a state."""
_DEFAULTS = {"max_position_embeddings": 512, "num_hidden_layers": None, "vocab_size": 256}
"""Keys that every checkpoint has in one place or another, and what is read where a configuration has none."""


@cache
def configs() -> dict[str, dict[str, Any]]:
    """Model type → a small configuration, in the keys of its config.json."""
    found: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("configs.json").read_text(encoding="utf-8"))
    return found


def write_model(config: dict[str, Any], folder: Path) -> Path:
    """A folder with config.json and float32 weights in mlx-lm's own names. Returns the folder.

    Noise on top of what mlx-lm initialises, so that no gate is shut and no row like another.
    """
    model_class, arguments = model_classes(config)
    mx.random.seed(_SEED)
    model = model_class(arguments.from_dict(config))
    parameters: Any = tree_flatten(model.parameters())
    weights = {name: _disturb(array) for name, array in [*parameters, *_dropped(model, config)]}
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(_complete(config, len(model.layers))), encoding="utf-8")
    return folder


def _dropped(model: Any, config: dict[str, Any]) -> list[tuple[str, mx.array]]:
    """Weights that mlx-lm has no place for, and `histrio_mlx.corrections` has."""
    if config["model_type"] != "ernie4_5_moe":
        return []

    name = "model.layers.{}.mlp.moe_statics.e_score_correction_bias"
    blocks = [index for index, layer in enumerate(model.layers) if hasattr(layer.mlp, "switch_mlp")]
    return [(name.format(index), mx.zeros((1, config["moe_num_experts"]))) for index in blocks]


def _disturb(array: mx.array) -> mx.array:
    if not mx.issubdtype(array.dtype, mx.floating):
        return array

    array = array.astype(mx.float32)
    is_constant = array.max().item() == array.min().item()
    return array + (_CONSTANT_NOISE if is_constant else _NOISE) * mx.random.normal(array.shape)


def _complete(config: dict[str, Any], num_layers: int) -> dict[str, Any]:
    """With what the runtime reads of any model and mlx-lm doesn't."""
    text = config.get("text_config", config)
    missing = {key: value or num_layers for key, value in _DEFAULTS.items() if key not in text}
    return {**missing, "architectures": ["TinyForCausalLM"], **config, "torch_dtype": "float32"}
