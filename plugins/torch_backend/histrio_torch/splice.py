"""Layer ranges without per-model code: *splice, don't slice*.

The model keeps its full-length layer list and its own forward, so every index that it computes stays right. Layers
before the range become proxies that return the hidden state received from the stage before, layers after it proxies
that return what the range produced; embeddings, final norm and head become shims where the stage doesn't own
them. All of that happens while the model has no memory yet (on the meta device).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from histrio.contracts.backend import StageSpec
from histrio.errors import UnsupportedModel

__all__ = ["Relay", "Structure", "find_structure", "splice"]

_FINAL_NORMS = ("norm", "final_layernorm", "final_layer_norm", "final_norm", "ln_f", "norm_f")


class Relay:
    """Carries hidden states around the layers of other stages during one step."""

    received: torch.Tensor | None = None
    """[1, tokens, hidden] from the stage before."""
    produced: torch.Tensor | None = None
    """[1, tokens, hidden] after the last own layer; not set on the last stage."""
    output: Any = None
    """What that layer returned as it was, a tensor or a tuple."""


@dataclass(frozen=True)
class Structure:
    """Where the parts of a causal language model are."""

    decoder: nn.Module
    """The inner model: ids or embeddings → hidden states."""
    layers: nn.ModuleList
    layers_name: str
    """Its name in the decoder, such as `layers` or `h`."""
    embeddings: nn.Module
    head: nn.Module | None


def find_structure(model: nn.Module, num_layers: int) -> Structure:
    """Find the parts by what transformers guarantees. Raises `UnsupportedModel` if there is no single layer list."""
    decoder = model.get_decoder()  # type: ignore[operator]
    lists = [
        (name, child)
        for name, child in decoder.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == num_layers
    ]
    if len(lists) != 1:
        raise UnsupportedModel(f"{type(model).__name__} has {len(lists)} lists of {num_layers} layers; one is needed")

    name, layers = lists[0]
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[operator]
    head = getattr(model, "score", None) if head is None else head
    return Structure(decoder, layers, name, embeddings, head)


def splice(model: nn.Module, spec: StageSpec) -> Relay:
    """Replace what other stages own. Must run before weights are allocated; the caller loads what is left."""
    structure = find_structure(model, spec.num_layers)
    structure.layers.__class__ = _LayerList
    relay = Relay()
    for index in range(spec.num_layers):
        if index < spec.first_layer:
            structure.layers[index] = _Before(relay, structure.layers[index])
        if index >= spec.last_layer:
            structure.layers[index] = _After(relay, structure.layers[index])

    if not spec.is_first:
        structure.layers[spec.first_layer].register_forward_pre_hook(_feed(relay), with_kwargs=True)
    if not spec.is_last:
        structure.layers[spec.last_layer - 1].register_forward_hook(_capture(relay))
        _drop_tail(model, structure, relay)
    if not spec.is_first and not (spec.is_last and _is_tied(model)):
        drop_embeddings(model, structure)
    return relay


def drop_embeddings(model: nn.Module, structure: Structure) -> None:
    """Put a shim in the embeddings' place; a tied head keeps the weight that it shares with them."""
    _replace(model, structure.embeddings, _Absent("embeddings"))


def _drop_tail(model: nn.Module, structure: Structure, relay: Relay) -> None:
    for name in _FINAL_NORMS:
        norm = getattr(structure.decoder, name, None)
        if isinstance(norm, nn.Module):
            setattr(structure.decoder, name, _Tail(relay, type(model).__name__))
    if structure.head is not None:
        _replace(model, structure.head, _Absent("head"))
    # Nothing is tied here: without a head, transformers would not find its weight.
    model.all_tied_weights_keys = {}  # type: ignore[assignment]


def _is_tied(model: nn.Module) -> bool:
    return bool(model.all_tied_weights_keys)


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new)


class _LayerList(nn.ModuleList):
    """Models loop over `layers[: num_hidden_layers]`, which makes a new list of modules in every step: 0.1 ms."""

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice) and index.indices(len(self)) == (0, len(self), 1):
            return self

        return super().__getitem__(index)


class _Proxy(nn.Module):
    """Stands for a layer of another stage; has its plain attributes, for models that ask layers what they are."""

    def __init__(self, relay: Relay, layer: nn.Module) -> None:
        super().__init__()
        plain = {key: value for key, value in vars(layer).items() if isinstance(value, (bool, int, float, str))}
        vars(self).update({key: value for key, value in plain.items() if not key.startswith("_") and key != "training"})
        self._relay = relay


class _Before(_Proxy):
    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        assert self._relay.received is not None
        return self._relay.received


class _After(_Proxy):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._relay.output


class _Tail(nn.Module):
    """Stands for the final norm, whose result is not read; refuses models that call it before their layers too."""

    def __init__(self, relay: Relay, model_name: str) -> None:
        super().__init__()
        self._relay, self._model_name = relay, model_name

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self._relay.produced is None:
            raise UnsupportedModel(f"{self._model_name} can't be split: its final norm is used before the layers too")

        return hidden_states


class _Absent(nn.Module):
    """Stands for a part that this stage doesn't have and never calls."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        raise AssertionError(f"this stage has no {self._what}")


def _feed(relay: Relay) -> Any:
    # Models whose layers return tuples unpack the proxies' plain tensor wrongly; the first own layer is told again.
    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (relay.received, *args[1:]), kwargs

        return args, {**kwargs, "hidden_states": relay.received}

    return hook


def _capture(relay: Relay) -> Any:
    def hook(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        relay.output = output
        relay.produced = output[0] if isinstance(output, tuple) else output

    return hook
