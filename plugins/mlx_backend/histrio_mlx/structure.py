"""Where layers, embeddings and head of an mlx-lm model are: found by mlx-lm's conventions, without per-model code."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from mlx.nn.layers.base import Module
from mlx.nn.layers.embedding import Embedding

from histrio.errors import UnsupportedModel

__all__ = ["Structure", "find_structure", "name_of"]

_FINAL_NORMS = (
    "embedding_norm",
    "final_layer_norm",
    "final_layernorm",
    "final_norm",
    "ln_f",
    "norm",
    "norm_f",
    "output_norm",
)
_INNER_TAIL = ("embed_out", *_FINAL_NORMS)
"""What some models have behind the layers, but in the inner model."""


@dataclass(frozen=True)
class Structure:
    """Where the parts of an mlx-lm model are."""

    model: Any
    """Ids → logits."""
    inner: Module
    """Ids → hidden states: the innermost module around both embeddings and layers."""
    layers: list[Any]
    """The list that the model loops over, itself."""
    embeddings: dict[str, Embedding]
    """Name within `inner` → embedding, those of positions too."""

    @property
    def entry(self) -> Any:
        """What runs the layers: the inner model, or the model if only that makes the mask."""
        mask = inspect.signature(type(self.inner).__call__).parameters.get("mask")
        return self.inner if mask is None or mask.default is None else self.model

    @property
    def tail(self) -> list[str]:
        """Paths within `model` of what is behind the layers, final norm and head, as modules."""
        modules: Any = dict(self.model.named_modules())
        inner = next(path for path, module in modules.items() if module is self.inner)
        beside = [path for path in modules if path and not _is_within(inner, path) and not _is_within(path, inner)]
        outermost = [path for path in beside if not any(path != other and _is_within(path, other) for other in beside)]
        return outermost + [f"{inner}.{name}" for name in _INNER_TAIL if isinstance(self.inner.get(name), Module)]

    @property
    def head_is_embeddings(self) -> bool:
        """Whether the logits come from the embeddings' weight: the settings say so, or there is no module for them."""
        settings = getattr(self.model, "args", None)
        is_tied = getattr(settings, "tie_word_embeddings", False) is True
        return is_tied or all(path.rpartition(".")[2] in _FINAL_NORMS for path in self.tail)


def find_structure(model: Any) -> Structure:
    """Find the parts by mlx-lm's one convention, `Model.layers`. Raises `UnsupportedModel` where they're not there."""
    own = [id(layer) for layer in getattr(model, "layers", [])]
    modules: dict[str, Module] = dict(model.named_modules())
    lists = [
        (path, value)
        for path, module in modules.items()
        for value in module.values()
        if isinstance(value, list) and value and [id(layer) for layer in value] == own
    ]
    if len(lists) != 1:
        raise UnsupportedModel(f"{name_of(model)} has {len(lists)} lists of all its layers; one is needed to split it")

    path, layers = lists[0]
    while path:
        embeddings = _embeddings(modules[path], layers)
        if embeddings:
            return Structure(model, modules[path], layers, embeddings)
        path = path.rpartition(".")[0]
    raise UnsupportedModel(f"{name_of(model)} has no module that embeds ids and runs layers, but not the head")


def name_of(model: Module) -> str:
    """The model's type, for messages."""
    return str(getattr(model, "model_type", type(model).__name__))


def _is_within(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}.")


def _embeddings(module: Any, layers: list[Any]) -> dict[str, Embedding]:
    """Path → embedding, for all embeddings of the module but those in layers."""
    in_layers = {id(part) for layer in layers for part in layer.modules()}
    found = module.named_modules()
    return {path: part for path, part in found if isinstance(part, Embedding) and id(part) not in in_layers}
