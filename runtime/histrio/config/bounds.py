"""What the numbers of a config.json may be: one table for the keys that models are made by, whatever their family.

A checkpoint comes from a stranger: a zero divides, a billion layers fill the memory, and the modelling code that would
stumble runs in another process, minutes later. Keys that are null count as not there; keys that are not in the table
are left to the backend.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from histrio.errors import ModelError

__all__ = ["check_bounds", "rope_tables"]

_MOST_LAYERS = 2_000
_MOST_WIDTH = 2**24
_MOST_TOKENS = 2**31 - 1
_LARGE = 1e15


class _Bound(msgspec.Struct, frozen=True):
    """One kind of value."""

    least: float = 0
    most: float = _MOST_WIDTH
    is_whole: bool = True
    excludes_least: bool = False
    may_be_list: bool = False
    """One for each layer."""

    def refusal(self, value: Any) -> str | None:
        """What the value must be; None where it is."""
        values = value if self.may_be_list and isinstance(value, list) else [value]
        return None if all(self._holds(each) for each in values) else self._words()

    def _holds(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.is_whole else int | float):
            return False
        return self.least <= value <= self.most and not (self.excludes_least and value == self.least)

    def _words(self) -> str:
        kind = "an integer" if self.is_whole else "a number"
        least = f"above {self.least:g}" if self.excludes_least else f"from {self.least:g}"
        return f"{kind} {least} to {self.most:.15g}"


_LAYERS = _Bound(1, _MOST_LAYERS)
_WIDTH = _Bound(1, _MOST_WIDTH)
_HEADS = _Bound(1, 2**16, may_be_list=True)
_COUNT = _Bound(0, _MOST_WIDTH, may_be_list=True)
_TOKENS = _Bound(1, _MOST_TOKENS)
_BASE = _Bound(0, _LARGE, is_whole=False, excludes_least=True, may_be_list=True)
_SHARE = _Bound(0, 1, is_whole=False, may_be_list=True)
_FACTOR = _Bound(-1e6, 1e6, is_whole=False)
_DIVISOR = _Bound(0, 1e6, is_whole=False, excludes_least=True)

_BOUNDS: dict[str, _Bound] = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), _LAYERS),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "head_dim", "v_head_dim", "vocab_size"), _WIDTH),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_key_value_heads", "num_kv_heads"), _HEADS),
    **dict.fromkeys(
        (
            "intermediate_size",
            "moe_intermediate_size",
            "shared_expert_intermediate_size",
            "num_experts",
            "num_local_experts",
            "n_routed_experts",
            "n_shared_experts",
            "num_experts_per_tok",
            "first_k_dense_replace",
            "num_kv_shared_layers",
            "num_nextn_predict_layers",
            "kv_lora_rank",
            "q_lora_rank",
            "qk_nope_head_dim",
            "qk_rope_head_dim",
        ),
        _COUNT,
    ),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx"), _TOKENS),
    **dict.fromkeys(("original_max_position_embeddings", "model_max_length"), _TOKENS),
    "pad_token_id": _Bound(-1, _MOST_TOKENS),
    "sliding_window": _Bound(-1, _MOST_TOKENS, may_be_list=True),
    **dict.fromkeys(("rope_theta", "rope_local_base_freq"), _BASE),
    **dict.fromkeys(
        ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon", "partial_rotary_factor"),
        _SHARE,
    ),
    **dict.fromkeys(
        ("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logit_scale", "routed_scaling_factor"),
        _FACTOR,
    ),
    **dict.fromkeys(
        ("attn_logit_softcapping", "final_logit_softcapping", "logits_scaling", "query_pre_attn_scalar"), _DIVISOR
    ),
}
_ROPE_BOUNDS = {
    **dict.fromkeys(("factor", "low_freq_factor", "high_freq_factor", "attention_factor", "beta_fast"), _DIVISOR),
    "rope_theta": _BASE,
    "partial_rotary_factor": _SHARE,
    "original_max_position_embeddings": _TOKENS,
}
_FLAGS = ("tie_word_embeddings", "is_encoder_decoder", "use_sliding_window")
_WORDS = ("model_type", "hidden_act", "hidden_activation")
_OBJECTS = ("text_config", "vision_config", "audio_config", "quantization_config", "auto_map")
_ROPE_TYPES = {
    *("default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional"),
    *("su", "mrope", "xdrope", "ntk_alpha", "deepseek_yarn", "deepseek_llama_scaling"),
}
"""What transformers knows, and what published models besides are known to write."""
_ROPE_NEEDS = {
    **dict.fromkeys(("linear", "dynamic", "yarn"), ("factor",)),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}
_NUMBER_FORMATS = ("float", "bfloat", "half", "double", "int", "uint", "auto")


def check_bounds(file: Path, config: Mapping[str, Any]) -> None:
    """Raise `ModelError`, with file and key, for the first value that no model can have. `config` is the part of the
    file that describes the language model."""
    for key, text in _refusals(config):
        raise ModelError(f"{file}: {key} {text}")


def rope_tables(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Where the file says how positions are rotated, and what: one table, or one for each kind of layer."""
    for key in ("rope_parameters", "rope_scaling"):
        table = config.get(key)
        if not isinstance(table, Mapping):
            continue
        inner = [(f"{key}.{name}", each) for name, each in table.items() if isinstance(each, Mapping)]
        yield from inner or [(key, table)]


def _refusals(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Key and what is wrong with it."""
    yield from _outside(config, _BOUNDS, "")
    for key in _FLAGS:
        if not isinstance(config.get(key), bool | None):
            yield key, "must be true or false"
    for key in _WORDS:
        if not isinstance(config.get(key), str | None):
            yield key, "must be a word"
    for key in (*_OBJECTS, "rope_scaling", "rope_parameters"):
        if not isinstance(config.get(key), dict | None):
            yield key, "must be an object"
    for key in ("dtype", "torch_dtype"):
        yield from _number_format(key, config.get(key))
    yield from _layer_types(config)
    yield from _heads(config)
    for path, table in rope_tables(config):
        yield from _rope(path, table)


def _outside(values: Mapping[str, Any], bounds: Mapping[str, _Bound], path: str) -> Iterator[tuple[str, str]]:
    for key, bound in bounds.items():
        value = values.get(key)
        words = None if value is None else bound.refusal(value)
        if words is not None:
            yield path + key, f"must be {words}"


def _number_format(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if value is not None and not (isinstance(value, str) and value.removeprefix("torch.").startswith(_NUMBER_FORMATS)):
        yield key, "must be a number format such as bfloat16"


def _layer_types(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    types, count = config.get("layer_types"), config.get("num_hidden_layers")
    if types is None:
        return
    if not isinstance(types, list) or not all(isinstance(each, str) for each in types):
        yield "layer_types", "must be a list of words"
    elif isinstance(count, int) and len(types) < count:
        yield "layer_types", f"has {len(types)} entries for {count} layers (num_hidden_layers)"


def _heads(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    heads, kv_heads, width = (config.get(key) for key in ("num_attention_heads", "num_key_value_heads", "hidden_size"))
    if not isinstance(heads, int):
        return
    if isinstance(kv_heads, int) and heads % kv_heads:
        yield "num_key_value_heads", f"must divide num_attention_heads, {heads}"
    has_own_size = any(config.get(key) is not None for key in ("head_dim", "kv_lora_rank", "qk_nope_head_dim"))
    if isinstance(width, int) and width % heads and not has_own_size:
        yield "num_attention_heads", f"must divide hidden_size, {width}, where there is no head_dim"


def _rope(path: str, table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _outside(table, _ROPE_BOUNDS, f"{path}.")
    for key in ("rope_type", "type"):
        kind = table.get(key)
        if kind is not None and not (isinstance(kind, str) and kind in _ROPE_TYPES):
            yield f"{path}.{key}", f"is no known kind of rotary positions ({', '.join(sorted(_ROPE_TYPES))})"
    kind = str(table.get("rope_type") or table.get("type"))
    for key in _ROPE_NEEDS.get(kind, ()):
        if table.get(key) is None:
            yield f"{path}.{key}", f"is missing; rotary positions of the kind {kind!r} need it"
    for key, value in table.items():
        numbers = value if isinstance(value, list) else [value]
        if not all(math.isfinite(each) for each in numbers if isinstance(each, float)):
            yield f"{path}.{key}", "must be finite"
