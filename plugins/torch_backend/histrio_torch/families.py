"""Which models this backend runs, told from config.json alone.

Everything that transformers has as a decoder with plain or windowed causal attention runs, and the encoders of
`encoder_families.py`; what doesn't is refused here by name, before weights are read. `splice.py` and `dry_run.py` check
what only the modelling code can tell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from histrio.contracts.backend import StageSpec
from histrio.errors import UnsupportedModel
from histrio.kit.checkpoint import num_layers
from histrio_torch.encoder_families import ENCODERS, classifier_refusal, encoder_refusal, is_encoder, kind_of
from histrio_torch.quantized import quantized_refusal

__all__ = ["check_config", "check_stages", "has_only_attention", "kv_cache_refusal"]

_ATTENTION_TYPES = ("attention", "full_attention", "sliding_attention")
"""Granite 4 says `attention` for full attention."""
_STATE_KEYS = (
    "attn_layer_period",
    "conv_L_cache",
    "hybrid_override_pattern",
    "layers_block_type",
    "linear_num_key_heads",
    "mamba_d_state",
    "mamba_num_heads",
    "ssm_cfg",
    "state_size",
    "time_mix_extra_dim",
)
"""Keys by which configurations of recurrent and hybrid models give themselves away."""
_STATE_TYPES = ("mamba", "rwkv", "jamba", "recurrent_gemma", "xlstm", "zamba", "falcon_h1", "bamba", "lfm2")
_KV_CACHE_DTYPES = ("auto", "int8")
_LATENT_KEY = "kv_lora_rank"
"""Of models with multi-head latent attention. A latent has its rotary part, of another magnitude, under one scale."""
_REFUSED_KEYS = {
    "num_kv_shared_layers": "its last layers attend over keys and values of earlier ones",
    "hidden_size_per_layer_input": "its layers read inputs that only the first stage has",
    "index_topk": "its layers choose the keys that they look at; only plain attention runs",
}
"""Above zero in config.json (Gemma 3n and 4, DeepSeek-V3.2, GLM-5) → the reason."""
_INTERFACE = "ALL_ATTENTION_FUNCTIONS"
"""What modelling code reads to call an attention that isn't its own."""


_SHARED_HEAD = "GenericForSequenceClassification"
"""The class of a head that scores, in modelling code."""


def check_config(config: Mapping[str, Any]) -> None:
    """Raise `UnsupportedModel`, with the model's name and the reason, for what this backend can't run."""
    name = _name(config)
    reason = encoder_refusal(config) if is_encoder(config) else _refusal(config)
    if reason is not None:
        raise UnsupportedModel(f"{name} is not supported by the torch backend: {reason}")


def check_stages(config: Mapping[str, Any], spec: StageSpec) -> None:
    """Raise `UnsupportedModel` for a part of an encoder."""
    if is_encoder(config) and not (spec.is_first and spec.is_last):
        raise UnsupportedModel(f"{_name(config)} is an encoder, which runs on one stage: leave one [[stage]]")


def kv_cache_refusal(config: Mapping[str, Any], kv_cache_dtype: str) -> str | None:
    """Why the model's keys and values can't be kept in this number format; None where they can."""
    if kv_cache_dtype not in _KV_CACHE_DTYPES:
        known = " and ".join(_KV_CACHE_DTYPES)
        return f"kv-cache-dtype {kv_cache_dtype!r} is unknown to the torch backend, which has {known}"

    if kv_cache_dtype == "int8" and is_encoder(config):
        return f"{_name(config)} is an encoder, which keeps no keys and values"

    if kv_cache_dtype == "int8" and config.get(_LATENT_KEY) is not None:
        return f"{_name(config)} keeps latents ({_LATENT_KEY} in config.json), which are not stored as int8"

    return None


def _name(config: Mapping[str, Any]) -> str:
    architectures = config.get("architectures") or []
    return str(architectures[0]) if architectures else str(config.get("model_type", "a model without model_type"))


def _refusal(config: Mapping[str, Any]) -> str | None:
    model_type = str(config.get("model_type", ""))
    if config.get("is_encoder_decoder"):
        return "it is an encoder-decoder; only decoders run"

    if any(key in config for key in ("text_config", "vision_config", "audio_config")):
        return "it is a multimodal wrapper; use a text-only checkpoint"

    if not _is_native(model_type):
        return _foreign_reason(config, model_type)

    state = _state_reason(config, model_type)
    if state is not None:
        return state

    if not _name(config).endswith(("ForCausalLM", "LMHeadModel", "ForSequenceClassification", "Model")):
        return "it is no causal language model (an encoder of another kind, or another task head)"

    refusal = classifier_refusal(config)
    if refusal is not None:
        return refusal

    refusal = quantized_refusal(config)
    if refusal is not None:
        return refusal

    code = _modelling_code(model_type)
    if "config.is_decoder" in code and "self.encoder =" in code:
        return "it is an encoder; only decoders run"

    if kind_of(config) == "score" and _SHARED_HEAD not in code:
        return "its head is not the one that decoders in transformers share"

    if _INTERFACE not in code:
        return "its code in transformers computes attention itself, so that it can't read keys and values from blocks"

    num_layers(config)
    return None


def has_only_attention(config: Mapping[str, Any]) -> bool:
    """Whether config.json lists the layers' types, and each is attention: then keys of a state say nothing."""
    layer_types = config.get("layer_types") or []
    return bool(layer_types) and all(each in _ATTENTION_TYPES for each in layer_types)


def _is_native(model_type: str) -> bool:
    """Whether the installed transformers has such a language model."""
    _, _, mapping = _source("auto", "modeling_auto.py").partition("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = ")
    return f'("{model_type}", ' in mapping.partition("\n)")[0]


def _modelling_code(model_type: str) -> str:
    _, _, special = _source("auto", "auto_mappings.py").partition("SPECIAL_MODEL_TYPE_TO_MODULE_NAME = ")
    found = re.search(rf'\("{re.escape(model_type)}", "(\w+)"\)', special.partition("\n)")[0])
    module = found[1] if found else model_type.replace("-", "_")
    return _source(module, f"modeling_{module}.py")


def _source(*names: str) -> str:
    """Code below transformers' models, empty where there is none; read as text, for importing it takes seconds."""
    spec = find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        return ""

    path = Path(spec.submodule_search_locations[0], "models", *names)
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _foreign_reason(config: Mapping[str, Any], model_type: str) -> str:
    if "auto_map" in config:
        return "it needs remote code (auto_map in config.json), which is never run"

    if kind_of(config) != "generate":
        return f"it is no decoder, and encoders that run are {', '.join(ENCODERS)}"

    return f"the installed transformers has no language model of type {model_type!r}"


def _state_reason(config: Mapping[str, Any], model_type: str) -> str | None:
    for layer_type in config.get("layer_types") or []:
        if layer_type not in _ATTENTION_TYPES:
            return f"it has layers of type {layer_type}; only full and sliding attention run"

    for key, reason in _REFUSED_KEYS.items():
        if config.get(key):
            return f"{reason} ({key} in config.json)"

    if config.get("use_bidirectional_attention") or config.get("is_causal") is False:
        return "its attention is bidirectional"

    if has_only_attention(config):
        return None

    found = [key for key in _STATE_KEYS if config.get(key) is not None]
    if found or model_type.startswith(_STATE_TYPES):
        return f"it keeps a recurrent or hybrid state ({found[0] if found else model_type}) that blocks can't hold"

    return None
