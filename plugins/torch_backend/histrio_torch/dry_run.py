"""One token through a loaded stage: finds what each layer stores, and refuses what paged attention would get wrong.

The layers' own calls say how wide keys and values are and which keys they see, so no configuration is guessed
at. A mask that the model made itself, an unknown argument, or a window other than the configuration's would be
ignored by our attention; such a model is refused by name instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from histrio.errors import UnsupportedModel
from histrio_torch.pages import LayerShape

__all__ = ["record_shapes"]

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


class _Recorder:
    def __init__(self, config: Any) -> None:
        self.shapes: dict[int, LayerShape] = {}
        self._config = config

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
        latent = vars(module).get("histrio_latent")
        if latent is None:
            self.shapes[layer] = LayerShape(key.shape[1], key.shape[-1], value.shape[-1])
            return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[-1]), None

        self.shapes[layer] = latent.shape
        return query.new_zeros(1, query.shape[2], query.shape[1], latent.value_weight.shape[-1]), None

    def _check(self, layer: int, mask: torch.Tensor | None, kwargs: dict[str, Any]) -> None:
        name = self._config.model_type
        if layer in self.shapes:
            raise UnsupportedModel(f"{name}: layer {layer} attends twice, which pages can't hold")

        if mask is not None:
            raise UnsupportedModel(f"{name}: layer {layer} makes an attention mask of its own, which is not supported")

        unknown = sorted(k for k, v in kwargs.items() if k not in _KNOWN | _HARMLESS and v is not None)
        if unknown:
            raise UnsupportedModel(
                f"{name}: layer {layer} passes {', '.join(unknown)} to attention, which is unknown here"
            )

        window, expected = kwargs.get("sliding_window"), _window(self._config, layer)
        if window != expected:
            raise UnsupportedModel(f"{name}: layer {layer} has window {window} in code but {expected} in config.json")


def record_shapes(model: Any, forward: Callable[[], Any]) -> dict[int, LayerShape]:
    """Call `forward`, a step of one token, with attention replaced by a recorder; layer index → shape."""
    from transformers import AttentionInterface

    recorder = _Recorder(model.config)
    AttentionInterface.register(_RECORDER, recorder)
    before = model.config._attn_implementation
    model.config._attn_implementation = _RECORDER
    try:
        with torch.inference_mode():
            forward()
    finally:
        model.config._attn_implementation = before
    return recorder.shapes


def _window(config: Any, layer: int) -> int | None:
    layer_types = getattr(config, "layer_types", None)
    window: int | None = getattr(config, "sliding_window", None)
    if layer_types is not None and layer_types[layer] != "sliding_attention":
        return None

    return window
