"""From config.json as transformers writes it today to what mlx-lm's models read.

mlx-lm passes over keys it does not know, without a word. transformers 5 puts everything about rotary positions under
`rope_parameters`; most of mlx-lm's models read `rope_theta`, `rope_scaling` and `partial_rotary_factor` beside it, and
would compute with defaults. What can't be said in a model's own keys is refused here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from histrio.config.model_files import read_json_object
from histrio.errors import UnsupportedModel
from histrio.kit.checkpoint import num_layers

__all__ = ["Config", "layer_windows", "normalise", "read_config"]

Config = dict[str, Any]

_OWN_KEYS = ("rope_theta", "partial_rotary_factor", "rope_type", "type")
_LAYER_TYPES = ("full_attention", "sliding_attention")
_OBJECTS = ("text_config", "vision_config", "audio_config", "quantization", "quantization_config")
"""Whether they are there says what kind of model it is."""


def read_config(folder: Path) -> Config:
    """The model's config.json without objects that are null. Raises `ModelError` with the file's name."""
    path = folder / "config.json"
    config = read_json_object(path)
    if not isinstance(config.get("model_type"), str):
        raise UnsupportedModel(f"{path} names no model_type")

    return {key: value for key, value in config.items() if value is not None or key not in _OBJECTS}


def normalise(config: Config, max_sequence_length: int) -> Config:
    """A copy in mlx-lm's keys, right for sequences up to this length. Raises `UnsupportedModel`."""
    config = dict(config)
    if isinstance(config.get("text_config"), dict):
        config["text_config"] = normalise(config["text_config"], max_sequence_length)
    _flatten_rope(config)
    _fix_rope(config, max_sequence_length)
    _name_pattern(config)
    _name_experts(config)
    _complete_minimax(config)
    return config


def layer_windows(config: Config) -> list[int | None]:
    """The sliding window of each layer as transformers understands config.json, None for full attention."""
    text = _text(config)
    window, count = text.get("sliding_window"), num_layers(config)
    if not isinstance(window, int) or text.get("use_sliding_window") is False:
        return [None] * count

    types = text.get("layer_types")
    if types:
        return [window if kind == "sliding_attention" else None for kind in types]

    if text.get("model_type") == "gemma2":
        return [None if index % 2 else window for index in range(count)]

    return [window] * count


def _text(config: Config) -> Config:
    text = config.get("text_config")
    return text if isinstance(text, dict) else config


def _flatten_rope(config: Config) -> None:
    parameters = config.get("rope_parameters")
    if not isinstance(parameters, dict):
        return

    if any(name in parameters for name in _LAYER_TYPES):
        _flatten_by_layer_type(config, parameters)
        return

    _flatten_into(config, parameters)


def _flatten_by_layer_type(config: Config, parameters: Config) -> None:
    """Gemma 3 has a base frequency for each kind of layer; mlx-lm calls the sliding one `rope_local_base_freq`."""
    full = parameters.get("full_attention") or parameters["sliding_attention"]
    sliding = parameters.get("sliding_attention") or full
    _flatten_into(config, full)
    if "rope_theta" in sliding:
        config["rope_local_base_freq"] = sliding["rope_theta"]


def _flatten_into(config: Config, parameters: Config) -> None:
    for key in ("rope_theta", "partial_rotary_factor"):
        if parameters.get(key) is not None:
            config[key] = parameters[key]
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if kind == "default":
        config["rope_scaling"] = None
        return

    rest = {key: value for key, value in parameters.items() if key not in _OWN_KEYS}
    config["rope_scaling"] = {**rest, "type": kind, "rope_type": kind}


def _fix_rope(config: Config, max_sequence_length: int) -> None:
    """Factors that depend on the longest sequence of a batch are fixed for the longest one that may come."""
    scaling = config.get("rope_scaling")
    if not isinstance(scaling, dict):
        return

    kind = scaling.get("rope_type") or scaling.get("type")
    trained = config.get("max_position_embeddings") or 0
    # Hunyuan's "dynamic" has a fixed factor, alpha
    if kind == "dynamic" and "alpha" not in scaling:
        if max_sequence_length > trained:
            raise UnsupportedModel(
                f"its rotary positions (dynamic) change with the length of a sequence beyond {trained} tokens: set "
                f"max-sequence-length to {trained} or less"
            )
        config["rope_scaling"] = None
    if kind in ("longrope", "su"):
        original = scaling.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
        if original and max_sequence_length <= original:
            # mlx-lm always takes the long factors
            scaling = {**scaling, "long_factor": scaling["short_factor"]}
        config["rope_scaling"] = {**scaling, "original_max_position_embeddings": original}
        config["original_max_position_embeddings"] = original


def _name_pattern(config: Config) -> None:
    """Gemma 3's layer types as the pattern that mlx-lm reads: every so manieth layer is a full one."""
    types = config.get("layer_types")
    if config.get("model_type") != "gemma3_text" or not types:
        return

    pattern = types.index("full_attention") + 1 if "full_attention" in types else len(types) + 1
    if any((kind == "full_attention") != (index % pattern == pattern - 1) for index, kind in enumerate(types)):
        raise UnsupportedModel("mlx-lm runs gemma3_text only where every so manieth layer has full attention")

    config["sliding_window_pattern"] = pattern


def _name_experts(config: Config) -> None:
    """transformers 5 calls the number of experts `num_local_experts` for all families."""
    for key in ("num_experts", "n_routed_experts"):
        if config.get(key) is None and config.get("num_local_experts") is not None:
            config[key] = config["num_local_experts"]


def _complete_minimax(config: Config) -> None:
    """mlx-lm has no defaults for what transformers leaves away."""
    if config.get("model_type") != "minimax_m2":
        return

    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    config.setdefault("rotary_dim", int(head_dim * config.get("partial_rotary_factor", 1.0)))
    config.setdefault("shared_intermediate_size", 0)
