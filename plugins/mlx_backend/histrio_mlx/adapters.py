"""LoRA and DoRA adapters in mlx-lm's format, applied to the layers of one stage.

mlx-lm's own loader wants the whole model. It is shown the stage's layers only, those among the last `num_layers` that
the adapter was trained on, so that layers keep their global numbers.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear

from histrio.contracts.backend import StageSpec
from histrio.errors import UnsupportedModel
from histrio_mlx.checkpoint import check_adapter
from histrio_mlx.compat import linear_to_lora_layers, named_parameters

__all__ = ["apply_adapter"]

_LEAVES = {"lora_a", "lora_b", "m"}
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")


def apply_adapter(model: Any, folder: Path, spec: StageSpec) -> None:
    """Replace linear layers by ones with the adapter's weights. Raises `UnsupportedModel` where they don't match."""
    config = check_adapter(folder)
    first = max(spec.num_layers - int(config.get("num_layers", spec.num_layers)), spec.first_layer)
    view = _OwnLayers(model, range(first, spec.last_layer))
    try:
        is_dora = config.get("fine_tune_type") == "dora"
        linear_to_lora_layers(view, len(view.layers), config["lora_parameters"], use_dora=is_dora)
        _load(model, folder, spec)
    except (KeyError, ValueError) as error:
        raise UnsupportedModel(f"the adapter {folder} doesn't fit the model: {error}") from None


class _OwnLayers:
    """The part of a model that mlx-lm may put adapters on."""

    def __init__(self, model: Any, own: range) -> None:
        self._model = model
        self.layers: list[Any] = [model.layers[index] for index in own]

    def named_modules(self) -> list[tuple[str, Module]]:
        """What adapters may name by its full path: embeddings and head, if this stage has them."""
        named = self._model.named_modules()
        return [(name, module) for name, module in named if isinstance(module, (Linear, Embedding))]

    def update_modules(self, modules: Any) -> None:
        """Put the changed ones in place."""
        self._model.update_modules(modules)


def _load(model: Any, folder: Path, spec: StageSpec) -> None:
    weights = cast("dict[str, mx.array]", mx.load(str(folder / "adapters.safetensors")))
    shapes = {name: array.shape for name, array in named_parameters(model) if _leaf(name) in _LEAVES}
    own = {name: array for name, array in weights.items() if name in shapes}
    wrong = [name for name, array in own.items() if array.shape != shapes[name]]
    missing = sorted(set(shapes) - set(own))
    strange = [name for name in weights if name not in shapes and not _is_elsewhere(name, spec)]
    for names, what in ((wrong, "have another shape"), (missing, "are missing"), (strange, "belong to no layer")):
        if names:
            raise ValueError(f"{len(names)} of its weights {what}, first {names[0]}")

    model.load_weights(list(own.items()), strict=False)


def _is_elsewhere(name: str, spec: StageSpec) -> bool:
    """Whether another stage has what this weight of an adapter is for."""
    layer = _LAYER.search(name)
    if layer is None:
        return not (spec.is_first and spec.is_last)

    index = int(layer[1])
    return index < spec.num_layers and not spec.first_layer <= index < spec.last_layer


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]
