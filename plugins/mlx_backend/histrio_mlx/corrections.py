"""What mlx-lm computes otherwise than the models' authors: mended while a stage is loaded, or refused by name.

Some need the weights as the checkpoint has them, others the model. Each entry was found by the survey, which compares
with transformers, and goes once mlx-lm agrees with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx.nn.layers.positional_encoding import RoPE

from histrio.errors import UnsupportedModel
from histrio_mlx.compat import YarnRoPE, initialize_rope, modules_of
from histrio_mlx.config import Config

__all__ = ["corrected_class"]

Weights = dict[str, mx.array]


def corrected_class(model_class: Any, config: Config) -> Any:
    """A subclass that amends the checkpoint's weights before mlx-lm's own `sanitize`, and mends the model behind it.

    Loading raises `UnsupportedModel` for what can't be mended.
    """
    model_type = str(config["model_type"])

    class Corrected(model_class):  # type: ignore[misc]
        def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
            stored = weights
            if model_type in _AMENDED:
                weights = _AMENDED[model_type](config, dict(weights))
            if hasattr(model_class, "sanitize"):
                weights = super().sanitize(weights)
            for correct in _CORRECTED.get(model_type, ()):
                correct(self, config, stored)
            _check_scaling(self, config)
            return weights

    Corrected.__name__ = Corrected.__qualname__ = model_class.__name__
    Corrected.__module__ = model_class.__module__
    return Corrected


# --- weights ---------------------------------------------------------------------------------------------------------


def _falcon_h1_attention(config: Config, weights: Weights) -> Weights:
    """mlx-lm looks for `key_proj`, but the projection is called `k_proj`; and its input's multiplier misses values."""
    factors = {
        "k_proj": config.get("key_multiplier", 1.0),
        "v_proj": config.get("attention_in_multiplier", 1.0),
    }
    convolution = next((array for name, array in weights.items() if name.endswith("mamba.conv1d.weight")), None)
    if convolution is None or all(factor == 1.0 for factor in factors.values()):
        return weights

    if convolution.shape[-1] <= convolution.shape[1]:
        raise UnsupportedModel(
            "the checkpoint was converted by mlx-lm, which loses key_multiplier of falcon_h1; use the original one"
        )

    scaled = {name: factors.get(name.split(".")[-2], 1.0) for name in weights if ".self_attn." in name}
    return weights | {name: weights[name] * factor for name, factor in scaled.items() if factor != 1.0}


def _gpt_oss_experts(_config: Config, weights: Weights) -> Weights:
    """Experts that are not quantized: stored [expert, in, out], gate and up in turns; mlx-lm knows MXFP4 alone."""
    for name in [name for name in weights if name.endswith("experts.gate_up_proj")]:
        array, bias = weights.pop(name).swapaxes(-1, -2), weights.pop(f"{name}_bias")
        for first, part in enumerate(("gate_proj", "up_proj")):
            stem = name.replace("gate_up_proj", part)
            weights[f"{stem}.weight"] = mx.contiguous(array[..., first::2, :])
            weights[f"{stem}.bias"] = mx.contiguous(bias[..., first::2])
    for name in [name for name in weights if name.endswith("experts.down_proj")]:
        weights[f"{name}.weight"] = weights.pop(name).swapaxes(-1, -2)
        weights[f"{name}.bias"] = weights.pop(f"{name}_bias")
    return weights


def _gpt2_names(_config: Config, weights: Weights) -> Weights:
    """Most checkpoints have the prefix that the oldest one lacks."""
    return {name.removeprefix("transformer."): array for name, array in weights.items()}


_AMENDED: dict[str, Callable[[Config, Weights], Weights]] = {
    "falcon_h1": _falcon_h1_attention,
    "gpt2": _gpt2_names,
    "gpt_oss": _gpt_oss_experts,
}


# --- modules ---------------------------------------------------------------------------------------------------------


def _ernie_router(model: Any, config: Config, weights: Weights) -> None:
    """mlx-lm drops the bias by which experts are chosen (not weighed)."""
    for index, layer in enumerate(model.layers):
        if not hasattr(layer.mlp, "switch_mlp"):
            continue

        bias = weights.get(f"model.layers.{index}.mlp.moe_statics.e_score_correction_bias")
        if bias is None:
            raise UnsupportedModel(
                "the checkpoint has no e_score_correction_bias: it was converted by mlx-lm, which loses what chooses "
                f"the experts of {config['model_type']}; use the original one"
            )

        _as_subclass(layer.mlp, _choose_by_bias)
        layer.mlp._correction_bias = bias.reshape(-1).astype(mx.float32)


def _choose_by_bias(block: type[Any]) -> type[Any]:
    class ChosenByBias(block):  # type: ignore[misc]
        def __call__(self, x: mx.array) -> mx.array:
            gates = self.gate_act(self.gate(x).astype(mx.float32))
            chosen = mx.argpartition(-(gates + self._correction_bias), kth=self.k - 1, axis=-1)[..., : self.k]
            scores = mx.take_along_axis(gates, chosen, axis=-1)
            scores = scores / mx.maximum(scores.sum(axis=-1, keepdims=True), 1e-12)
            y = self.switch_mlp(x, chosen)
            y = (y * scores[..., None]).sum(axis=-2).astype(y.dtype)
            mixed: mx.array = y if self.shared_experts is None else y + self.shared_experts(x)
            return mixed

    return ChosenByBias


def _jamba_router(model: Any, _config: Config, _weights: Weights) -> None:
    """Jamba weighs its experts by their share among all; mlx-lm by their share among the chosen."""
    for layer in model.layers:
        if hasattr(layer.feed_forward, "switch_mlp"):
            _as_subclass(layer.feed_forward, _share_among_all)


def _share_among_all(block: type[Any]) -> type[Any]:
    class SharedAmongAll(block):  # type: ignore[misc]
        def __call__(self, x: mx.array) -> mx.array:
            shares = mx.softmax(self.router(x), axis=-1, precise=True)
            count = self.num_experts_per_tok
            chosen = mx.stop_gradient(mx.argpartition(-shares, kth=count - 1, axis=-1)[..., :count])
            y = self.switch_mlp(x, chosen)
            mixed: mx.array = (y * mx.take_along_axis(shares, chosen, axis=-1)[..., None]).sum(axis=-2)
            return mixed

    return SharedAmongAll


def _gemma3_scale(model: Any, config: Config, _weights: Weights) -> None:
    """mlx-lm rounds what embeddings are multiplied by, √hidden_size, to bfloat16, whatever it computes in."""
    text = config.get("text_config") or config
    exact = math.sqrt(text["hidden_size"])
    factor = exact / float(mx.array(exact, mx.bfloat16))
    for module in modules_of(model):
        if type(module).__name__ == "Gemma3Model":
            _as_subclass(module.embed_tokens, lambda embedding: _multiplied_by(factor, embedding))


def _multiplied_by(factor: float, embedding: type[Any]) -> type[Any]:
    class Multiplied(embedding):  # type: ignore[misc]
        def __call__(self, ids: mx.array) -> mx.array:
            hidden: mx.array = super().__call__(ids)
            return hidden if hidden.dtype == mx.bfloat16 else hidden * factor

    return Multiplied


def _as_subclass(module: Any, make: Callable[[type[Any]], type[Any]]) -> None:
    """Give a module another `__call__`; parameters and their names stay."""
    module.__class__ = make(type(module))


def _glm_rotary_part(model: Any, config: Config, _weights: Weights) -> None:
    """mlx-lm rotates whole heads."""
    for layer in model.layers:
        rope = layer.self_attn.rope
        rope.dims = int(layer.self_attn.head_dim * config.get("partial_rotary_factor", 1.0))


def _recurrent_gemma_base(model: Any, config: Config, _weights: Weights) -> None:
    """mlx-lm reads the base frequency and uses its own."""
    for rope in _plain_ropes(model):
        rope.base = config["rope_theta"]


def _scaled_rotary(model: Any, config: Config, _weights: Weights) -> None:
    """mlx-lm reads how positions are scaled and rotates by unscaled ones."""
    scaling = config.get("rope_scaling")
    if not scaling:
        return

    for layer in model.layers:
        rope = layer.self_attn.rope
        layer.self_attn.rope = initialize_rope(
            rope.dims, rope.base, rope.traditional, scaling, config["max_position_embeddings"]
        )


def _exact_yarn(model: Any, config: Config, _weights: Weights) -> None:
    """`truncate: false`: YaRN's two bounds are not rounded to whole dimensions; mlx-lm always rounds."""
    scaling = config.get("rope_scaling") or {}
    if scaling.get("truncate", True):
        return

    for rope in (module for module in modules_of(model) if isinstance(module, YarnRoPE)):
        rope._freqs = _yarn_periods(rope.dims, config["rope_theta"], scaling)


def _yarn_periods(dims: int, base: float, scaling: Config) -> mx.array:
    """Radians per position, inverted: [dims / 2]. YaRN, Peng et al. 2023 (arXiv 2309.00071), equations 17 to 23."""
    trained = scaling["original_max_position_embeddings"]

    def bound(num_rotations: float) -> float:
        return dims * math.log(trained / (num_rotations * 2 * math.pi)) / (2 * math.log(base))

    low = max(bound(scaling.get("beta_fast", 32)), 0)
    high = min(bound(scaling.get("beta_slow", 1)), dims - 1)
    ramp = mx.clip((mx.arange(dims // 2, dtype=mx.float32) - low) / max(high - low, 0.001), 0, 1)
    period = base ** (mx.arange(0, dims, 2, dtype=mx.float32) / dims)
    inverted: mx.array = 1 / (ramp / (scaling["factor"] * period) + (1 - ramp) / period)
    return inverted


def _check_scaling(model: Any, config: Config) -> None:
    scaling = config.get("rope_scaling")
    if not isinstance(scaling, dict) or not _is_active(scaling):
        return

    ropes = [module for module in modules_of(model) if "rope" in type(module).__name__.lower()]
    if ropes and len(_plain_ropes(model)) == len(ropes):
        raise UnsupportedModel(
            f"mlx-lm ignores rope_scaling of a {config['model_type']}; take the key out of config.json, and set "
            "max-sequence-length to what the model was trained with"
        )


def _is_active(scaling: Config) -> bool:
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    return kind not in ("default", "mrope", "dynamic") and scaling.get("factor", 2.0) != 1.0


def _plain_ropes(model: Any) -> list[Any]:
    return [module for module in modules_of(model) if type(module) is RoPE and module.scale == 1.0]


_CORRECTED: dict[str, tuple[Callable[[Any, Config, Weights], None], ...]] = {
    "ernie4_5_moe": (_ernie_router,),
    "gemma3": (_gemma3_scale,),
    "gemma3_text": (_gemma3_scale,),
    "glm": (_glm_rotary_part,),
    "glm4_moe": (_scaled_rotary,),
    "gpt_oss": (_exact_yarn,),
    "jamba": (_jamba_router,),
    "recurrent_gemma": (_recurrent_gemma_base,),
    "solar_open": (_scaled_rotary,),
}
