"""Tiny random models of the promised families, saved as transformers saves them: transformers is the judge."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from histrio_mlx.compat import load_model
from histrio_mlx.config import normalise, read_config
from histrio_torch.testing.families import FAMILIES as TORCH_FAMILIES
from histrio_torch.testing.families import MAX_LENGTH, VOCAB_SIZE, make_model_of

__all__ = ["FAMILIES", "MAX_LENGTH", "NUM_LAYERS", "VOCAB_SIZE", "make_model", "quantize"]

NUM_LAYERS = 4
"""Enough for three cuts, and for a full layer between sliding ones."""
_MIXED_LAYERS = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
_ODD_ROPE = {"rope_type": "default", "rope_theta": 500.0}
"""A base that no class has as its default: a forgotten one would show."""
_TWO_ROPES = {"full_attention": {**_ODD_ROPE, "rope_theta": 900.0}, "sliding_attention": _ODD_ROPE}
_COMMON: dict[str, Any] = {"num_hidden_layers": NUM_LAYERS, "hidden_size": 64}
_EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}

FAMILIES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}}),
    "qwen3": ("qwen3", {"tie_word_embeddings": True, "rope_parameters": _ODD_ROPE}),
    "gemma": ("gemma", {"tie_word_embeddings": True, "rope_parameters": _ODD_ROPE}),
    "gemma2": ("gemma2", {**TORCH_FAMILIES["gemma2"][1], "layer_types": None, "sliding_window": MAX_LENGTH}),
    "gemma3": (
        "gemma3_text",
        {**TORCH_FAMILIES["gemma3"][1], "layer_types": _MIXED_LAYERS, "rope_parameters": _TWO_ROPES},
    ),
    "phi3": ("phi3", {"sliding_window": 12, "rope_parameters": _ODD_ROPE}),
    "phi3_longrope": TORCH_FAMILIES["phi3_longrope"],
    "mistral": ("mistral", {"sliding_window": 12, "rope_parameters": _ODD_ROPE}),
    "cohere": ("cohere", {**TORCH_FAMILIES["cohere"][1], "rope_parameters": _ODD_ROPE}),
    "deepseek_v3": ("deepseek_v3", {**TORCH_FAMILIES["deepseek_v3"][1], "rope_parameters": _ODD_ROPE}),
    "glm4_moe": (
        "glm4_moe",
        {
            **_EXPERTS,
            "n_routed_experts": 8,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "use_qk_norm": True,
            "rope_parameters": {**_ODD_ROPE, "partial_rotary_factor": 0.5},
        },
    ),
    "minimax_m2": (
        "minimax_m2",
        {**_EXPERTS, "num_local_experts": 4, "rope_parameters": {**_ODD_ROPE, "partial_rotary_factor": 0.5}},
    ),
    "qwen3_moe": TORCH_FAMILIES["qwen3_moe"],
}
"""Name → (model type of transformers, settings on top of the common ones)."""
_SEEDS = {"cohere": 6}
"""Where the usual seed gives a model that repeats itself."""


def make_model(family: str, folder: Path, *, seed: int | None = None, **settings: Any) -> Any:
    """Save a random float32 model of the family in `folder`; returns it as transformers has it."""
    model_type, own = FAMILIES[family]
    return make_model_of(
        model_type, folder, seed=_SEEDS.get(family, 4) if seed is None else seed, **{**_COMMON, **own, **settings}
    )


def quantize(source: Path, folder: Path, settings: Mapping[str, Any]) -> Any:
    """Write the checkpoint in `source` with its weights quantized; returns mlx-lm's own model of it.

    `settings` are mlx-lm's `group_size`, `bits` and `mode`.
    """
    from mlx_lm.utils import quantize_model, save_model

    config = read_config(source)
    model, _ = load_model(source, model_config=normalise(config, MAX_LENGTH))
    model, quantized = quantize_model(model, config, settings["group_size"], settings["bits"], mode=settings["mode"])
    save_model(folder, model)
    (folder / "config.json").write_text(json.dumps(quantized))
    return model
