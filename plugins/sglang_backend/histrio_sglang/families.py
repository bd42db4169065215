"""Which models a stage can run, told from config.json and the text of the installed SGLang. Imports nothing of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from histrio.errors import UnsupportedModel

__all__ = ["check_model", "sources"]

_ATTENTION_TYPE = "full_attention"
_WINDOW_TYPE = "sliding_attention"
_STATE_KEYS = (
    "full_attention_interval",
    "hybrid_override_pattern",
    "layers_block_type",
    "linear_attn_config",
    "linear_num_key_heads",
    "mamba_d_state",
    "mamba_num_heads",
    "ssm_cfg",
    "state_size",
)
"""Keys by which configurations of recurrent and hybrid models give themselves away."""
_LATENT_KEY = "kv_lora_rank"


def check_model(config: Mapping[str, Any]) -> None:
    """Raise `UnsupportedModel`, with the model's name and the reason, for what a stage on SGLang cannot run."""
    architectures = config.get("architectures") or ["a model without architectures"]
    name = str(architectures[0])
    reason = _refusal(config, name)
    if reason is not None:
        raise UnsupportedModel(f"{name} is not supported by the sglang backend: {reason}")


def _refusal(config: Mapping[str, Any], architecture: str) -> str | None:
    if "text_config" in config or "vision_config" in config:
        return "it is a multimodal wrapper; use a text-only checkpoint"

    state = [key for key in _STATE_KEYS if config.get(key) is not None]
    layer_types = set(config.get("layer_types") or [])
    others = sorted(layer_types - {_ATTENTION_TYPE, _WINDOW_TYPE})
    if state or others:
        return f"it keeps a recurrent or hybrid state ({(state + others)[0]}) that pages cannot hold"

    if config.get(_LATENT_KEY) is not None:
        return "its latent attention was never tested here"

    if _WINDOW_TYPE in layer_types or config.get("use_sliding_window"):
        return "its sliding windows were never tested here"

    source = sources().get(architecture)
    if source is None:
        return "the installed SGLang has no such model"

    if "pp_proxy_tensors" not in source:
        return "SGLang's code for it cannot be cut into ranges of layers; an engine backend can hold all of it"

    return None


@cache
def sources() -> dict[str, str]:
    """Architecture → the text of the module in which SGLang defines it. Read, for importing takes ten seconds."""
    spec = find_spec("sglang")
    if spec is None or not spec.submodule_search_locations:
        return {}

    found = {}
    for path in sorted(Path(spec.submodule_search_locations[0], "srt", "models").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        for line in text.splitlines():
            if line.startswith("class ") and "For" in line:
                found[line.removeprefix("class ").split("(")[0].split(":")[0]] = text
    return found
