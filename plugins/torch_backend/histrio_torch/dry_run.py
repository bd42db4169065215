"""Two tokens through a stage: finds what each layer stores, and refuses what a stage would get wrong.

The layers' own calls say how wide keys and values are and which keys they see, so no configuration is guessed
at. A mask that the model made itself, an unknown argument, or a window other than the configuration's would be
ignored by our attention; a tensor that layers get beside the hidden state doesn't cross to the next stage. Such
models are refused by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from histrio.contracts.backend import StageSpec
from histrio.errors import UnsupportedModel
from histrio_torch.blocks import LayerShape

__all__ = ["NUM_TRIED_TOKENS", "attending_modules", "check_side_channels", "record_shapes"]

NUM_TRIED_TOKENS = 2
"""Tokens of the one sequence of a trial step; the logits of the last one are computed."""
_RECORDER = "histrio_recorder"
_KNOWN = {"dropout", "scaling", "sliding_window", "softcap", "s_aux"}
_HARMLESS = {
    "cache_position",
    "is_causal",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "position_embeddings",
    "position_ids",
    "return_dict",
    "use_cache",
}


def record_shapes(model: Any, forward: Callable[[], Any], spec: StageSpec) -> dict[int, LayerShape]:
    """Call `forward`, a step of `NUM_TRIED_TOKENS`, with attention replaced by a recorder; layer index → shape.

    Raises `UnsupportedModel`, also for a layer of the stage that never asked for its attention.
    """
    from transformers import AttentionInterface

    # Transformers knows names only, which all models share: each model's recorder is found at its own modules, for
    # stages that are loaded side by side.
    AttentionInterface.register(_RECORDER, _record)
    recorder = _Recorder(model.config, spec.max_sequence_length)
    attending = attending_modules(model)
    for module in attending:
        vars(module)[_RECORDER] = recorder
    before = model.config._attn_implementation
    model.config._attn_implementation = _RECORDER
    try:
        with torch.inference_mode():
            forward()
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UnsupportedModel(f"{type(model).__name__} fails in a trial step: {error!r}") from error
    finally:
        model.config._attn_implementation = before
        for module in attending:
            del vars(module)[_RECORDER]
    others = sorted(set(range(spec.first_layer, spec.last_layer)) - set(recorder.shapes))
    if others:
        raise UnsupportedModel(
            f"{type(model).__name__}: layer {others[0]} has no attention that transformers lets others compute"
        )

    return recorder.shapes


def attending_modules(model: Any) -> list[nn.Module]:
    """The modules that know their layer's number, by which attention finds the blocks of its stage."""
    return [module for module in model.modules() if "layer_idx" in vars(module)]


def check_side_channels(layer: nn.Module, model_name: str) -> Any:
    """Refuse tensors that the layer gets beside hidden state and positions; returns a handle to remove the check."""
    names = list(inspect.signature(layer.forward).parameters)

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = {**dict(zip(names[1:], args[1:], strict=False)), **kwargs}
        others = [key for key, value in given.items() if key not in _HARMLESS | {names[0]} and _has_tensor(value)]
        if others:
            raise UnsupportedModel(
                f"{model_name} can't be split: its layers get {', '.join(others)} from the first stage"
            )

    return layer.register_forward_pre_hook(hook, with_kwargs=True)


def _has_tensor(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_tensor, value.values()))

    return isinstance(value, torch.Tensor) or (isinstance(value, (tuple, list)) and any(map(_has_tensor, value)))


def _record(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
    recorder: _Recorder = vars(module)[_RECORDER]
    return recorder(module, *args, **kwargs)


class _Recorder:
    """Stands for attention: notes what a layer stores, gives zeros."""

    def __init__(self, config: Any, max_sequence_length: int) -> None:
        self.shapes: dict[int, LayerShape] = {}
        self._config = config
        self._max_sequence_length = max_sequence_length

    def __call__(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        layer = int(vars(module)["layer_idx"])
        self._check(layer, attention_mask, kwargs)
        if query.shape[2] != NUM_TRIED_TOKENS:
            raise UnsupportedModel(f"{self._config.model_type}: layer {layer} attends for some of a step's tokens only")

        latent = vars(module).get("histrio_latent")
        if latent is None:
            self.shapes[layer] = LayerShape(key.shape[1], key.shape[-1], value.shape[-1])
            return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[-1]), None

        self.shapes[layer] = latent.shape
        return query.new_zeros(1, query.shape[2], query.shape[1], latent.value_weight.shape[-1]), None

    def _check(self, layer: int, mask: torch.Tensor | None, kwargs: dict[str, Any]) -> None:
        name = self._config.model_type
        if layer in self.shapes:
            raise UnsupportedModel(f"{name}: layer {layer} attends twice, which blocks can't hold")

        if mask is not None:
            raise UnsupportedModel(f"{name}: layer {layer} makes an attention mask of its own, which is not supported")

        unknown = sorted(k for k, v in kwargs.items() if k not in _KNOWN | _HARMLESS and v is not None)
        if unknown:
            raise UnsupportedModel(f"{name}: layer {layer} passes unknown {', '.join(unknown)} to its attention")

        window, expected = kwargs.get("sliding_window"), _window(self._config, layer)
        if self._effective(window) != self._effective(expected):
            most = min(each for each in (window, expected) if each is not None)
            raise UnsupportedModel(
                f"{name}: layer {layer} has window {window} in code but {expected} in config.json, which shows beyond "
                f"{most} tokens; choose a max-sequence-length up to that"
            )

    def _effective(self, window: int | None) -> int | None:
        """A window that no sequence leaves is none."""
        return None if window is None or window >= self._max_sequence_length else window


def _window(config: Any, layer: int) -> int | None:
    layer_types = getattr(config, "layer_types", None)
    window: int | None = getattr(config, "sliding_window", None)
    if layer_types is not None and layer_types[layer] != "sliding_attention":
        return None

    return window
