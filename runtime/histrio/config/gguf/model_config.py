"""config.json and generation_config.json of a GGUF file, as transformers spells them.

A file says less than a config.json: what it leaves out is the same in all published models of the architecture, and
stands here. Where a file says something that the architecture's config.json has no word for, it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from histrio.config.gguf.block_types import PLAIN_DTYPES
from histrio.config.gguf.header import GgufTensor
from histrio.config.gguf.metadata import Metadata
from histrio.config.gguf.names import ARCHITECTURES
from histrio.config.gguf.rotary import rotary_config
from histrio.errors import ModelError, UnsupportedModel

__all__ = ["generation_config", "make_config"]

Values = Callable[[str], npt.NDArray[np.float32] | None]
"""The values of a small tensor by the file's name for it; None where there is none."""
_END_NAMES = ("eos", "eot", "eom")
_ENDS_OF_TURNS = {
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>"),
    *("<EOT>", "<|END_OF_TURN_TOKEN|>", "<｜end▁of▁sentence｜>", "<|return|>", "<|call|>"),
}
"""Tokens that end a turn in every model that has them; files often name only one of several."""
_CONTROL, _USER_DEFINED = 3, 4
_GEMMA2_LARGE_LAYERS, _GEMMA3_LARGE_LAYERS = 46, 62
"""The 27B models scale queries by the width of a head as the others would have it, not by their own."""


def make_config(metadata: Metadata, tensors: Mapping[str, GgufTensor], values: Values) -> dict[str, Any]:
    """The content of config.json. Raises `UnsupportedModel`, `ModelError` with file and key."""
    architecture = metadata.architecture
    if architecture not in ARCHITECTURES:
        raise UnsupportedModel(
            f"{metadata.file} holds a model of architecture {architecture[:40]!r}; those that are read are "
            f"{', '.join(ARCHITECTURES)}. Take the safetensors form of the model"
        )
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelError(f"{metadata.file} has no embedding (token_embd.weight), so it is no whole model")

    heads = metadata.whole(".attention.head_count")
    width = metadata.whole(".embedding_length")
    head_dim = metadata.whole(".attention.key_length", width // max(heads, 1))
    if metadata.whole(".attention.value_length", head_dim) != head_dim:
        raise UnsupportedModel(f"{metadata.file}: keys and values of different lengths are not read")
    config: dict[str, Any] = {
        "vocab_size": embedding.shape[0],
        "hidden_size": width,
        "num_hidden_layers": metadata.whole(".block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.whole(".attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": metadata.whole(".context_length"),
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        **_normalisation(metadata),
        **_token_ids(metadata, embedding.shape[0]),
        **rotary_config(metadata, head_dim, values),
    }
    if metadata.has(".feed_forward_length"):
        config["intermediate_size"] = metadata.whole(".feed_forward_length")
    dtype = _dtype(tensors)
    if dtype is not None:
        config["torch_dtype"] = dtype
    own = _BUILDERS[architecture](metadata, config, tensors)
    activation = {} if "hidden_activation" in own else {"hidden_act": "silu"}
    return config | activation | own


def generation_config(metadata: Metadata) -> dict[str, Any]:
    """The content of generation_config.json: where texts begin, and every token that ends one."""
    tokens = metadata.texts("tokenizer.ggml.tokens")
    kinds = metadata.numbers("tokenizer.ggml.token_type", len(tokens)) or [_CONTROL] * len(tokens)
    ends = {metadata.token_id(name, len(tokens)) for name in _END_NAMES} - {None}
    ends |= {
        index
        for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if token in _ENDS_OF_TURNS and kind in (_CONTROL, _USER_DEFINED)
    }
    if metadata.architecture == "gpt-oss":
        ends -= {index for index, token in enumerate(tokens) if token == "<|end|>"}  # ends a message, not the turn
    begin = metadata.token_id("bos", len(tokens))
    found: dict[str, Any] = {} if begin is None else {"bos_token_id": begin}
    return found | ({"eos_token_id": sorted(each for each in ends if each is not None)} if ends else {})


def _normalisation(metadata: Metadata) -> dict[str, float]:
    if metadata.has(".attention.layer_norm_rms_epsilon"):
        return {"rms_norm_eps": metadata.number(".attention.layer_norm_rms_epsilon")}
    return {"layer_norm_eps": metadata.number(".attention.layer_norm_epsilon")}


def _token_ids(metadata: Metadata, num_tokens: int) -> dict[str, int]:
    names = (("bos", "bos"), ("eos", "eos"), ("padding", "pad"))
    found = {f"{ours}_token_id": metadata.token_id(theirs, num_tokens) for theirs, ours in names}
    return {name: value for name, value in found.items() if value is not None}


def _dtype(tensors: Mapping[str, GgufTensor]) -> str | None:
    """The number format of the matrices, if all of them have one and it is no block format."""
    found = {tensor.block_type for tensor in tensors.values() if len(tensor.shape) > 1}
    return PLAIN_DTYPES.get(found.pop()) if len(found) == 1 else None


def _llama(metadata: Metadata, config: dict[str, Any], tensors: Mapping[str, GgufTensor]) -> dict[str, Any]:
    """Llama and the Mistral models are one architecture; one with experts is Mixtral."""
    num_experts = metadata.whole(".expert_count", 0)
    if num_experts:
        return {
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "num_local_experts": num_experts,
            "num_experts_per_tok": metadata.whole(".expert_used_count"),
            "sliding_window": None,
        }
    if config["attention_bias"] and "blk.0.attn_output.bias" not in tensors:
        raise UnsupportedModel(
            f"{metadata.file}: its queries have a bias and its output has none, which no config.json of a Llama can say"
        )
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "mlp_bias": "blk.0.ffn_gate.bias" in tensors,
    }


def _qwen2(metadata: Metadata, config: dict[str, Any], tensors: Mapping[str, GgufTensor]) -> dict[str, Any]:
    return {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_sliding_window": False}


def _qwen3(metadata: Metadata, config: dict[str, Any], tensors: Mapping[str, GgufTensor]) -> dict[str, Any]:
    return {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "use_sliding_window": False}


def _qwen3moe(metadata: Metadata, config: dict[str, Any], tensors: Mapping[str, GgufTensor]) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "num_experts": metadata.whole(".expert_count"),
        "num_experts_per_tok": metadata.whole(".expert_used_count"),
        "moe_intermediate_size": metadata.whole(".expert_feed_forward_length"),
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "use_sliding_window": False,
    }


def _gemma2(metadata: Metadata, config: dict[str, Any], tensors: Mapping[str, GgufTensor]) -> dict[str, Any]:
    return {
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": _query_scale(config, _GEMMA2_LARGE_LAYERS),
        "attn_logit_softcapping": metadata.number(".attn_logit_softcapping", 50.0),
        "final_logit_softcapping": metadata.number(".final_logit_softcapping", 30.0),
        "sliding_window": metadata.whole(".attention.sliding_window", 4096),
        "layer_types": _layer_types(config, 2),
    }


def _gemma3(metadata: Metadata, config: dict[str, Any], tensors: Mapping[str, GgufTensor]) -> dict[str, Any]:
    has_cap = metadata.has(".final_logit_softcapping")
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": _query_scale(config, _GEMMA3_LARGE_LAYERS),
        "attn_logit_softcapping": None,
        "final_logit_softcapping": metadata.number(".final_logit_softcapping") if has_cap else None,
        "rope_theta": metadata.number(".rope.freq_base", 1_000_000.0),
        "rope_local_base_freq": metadata.number(".rope.freq_base_swa", 10_000.0),
        "sliding_window": metadata.whole(".attention.sliding_window"),
        "layer_types": _layer_types(config, 6),
        "use_bidirectional_attention": False,
    }


def _phi3(metadata: Metadata, config: dict[str, Any], tensors: Mapping[str, GgufTensor]) -> dict[str, Any]:
    original = metadata.whole(".rope.scaling.original_context_length", config["max_position_embeddings"])
    return {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "original_max_position_embeddings": original,
        "sliding_window": metadata.whole(".attention.sliding_window", 0) or None,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
    }


def _command_r(metadata: Metadata, config: dict[str, Any], tensors: Mapping[str, GgufTensor]) -> dict[str, Any]:
    return {
        "architectures": ["CohereForCausalLM"],
        "model_type": "cohere",
        "logit_scale": metadata.number(".logit_scale"),
        "use_qk_norm": "blk.0.attn_q_norm.weight" in tensors,
    }


def _cohere2(metadata: Metadata, config: dict[str, Any], tensors: Mapping[str, GgufTensor]) -> dict[str, Any]:
    return {
        "architectures": ["Cohere2ForCausalLM"],
        "model_type": "cohere2",
        "logit_scale": metadata.number(".logit_scale"),
        "sliding_window": metadata.whole(".attention.sliding_window"),
        "layer_types": _layer_types(config, 4),
    }


def _glm4(metadata: Metadata, config: dict[str, Any], tensors: Mapping[str, GgufTensor]) -> dict[str, Any]:
    return {"architectures": ["Glm4ForCausalLM"], "model_type": "glm4"}


def _smollm3(metadata: Metadata, config: dict[str, Any], tensors: Mapping[str, GgufTensor]) -> dict[str, Any]:
    """Every fourth layer has no rotary positions."""
    return {
        "architectures": ["SmolLM3ForCausalLM"],
        "model_type": "smollm3",
        "no_rope_layer_interval": 4,
        "no_rope_layers": [int((layer + 1) % 4 != 0) for layer in range(config["num_hidden_layers"])],
        "layer_types": ["full_attention"] * config["num_hidden_layers"],
        "use_sliding_window": False,
        "sliding_window": None,
    }


def _olmo2(metadata: Metadata, config: dict[str, Any], tensors: Mapping[str, GgufTensor]) -> dict[str, Any]:
    if metadata.has(".attention.sliding_window"):
        raise UnsupportedModel(f"{metadata.file} holds an OLMo 3; take its safetensors form")
    return {"architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2"}


def _granite(metadata: Metadata, config: dict[str, Any], tensors: Mapping[str, GgufTensor]) -> dict[str, Any]:
    return {
        "architectures": ["GraniteForCausalLM"],
        "model_type": "granite",
        "mlp_bias": "blk.0.ffn_gate.bias" in tensors,
        "attention_multiplier": metadata.number(".attention.scale"),
        "embedding_multiplier": metadata.number(".embedding_scale"),
        "residual_multiplier": metadata.number(".residual_scale"),
        "logits_scaling": metadata.number(".logit_scale"),
    }


def _gpt_oss(metadata: Metadata, config: dict[str, Any], tensors: Mapping[str, GgufTensor]) -> dict[str, Any]:
    return {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "intermediate_size": metadata.whole(".expert_feed_forward_length"),
        "num_local_experts": metadata.whole(".expert_count"),
        "num_experts_per_tok": metadata.whole(".expert_used_count"),
        "sliding_window": metadata.whole(".attention.sliding_window"),
        "layer_types": _layer_types(config, 2),
        "swiglu_limit": 7.0,
    }


_BUILDERS = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3moe": _qwen3moe,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "phi3": _phi3,
    "command-r": _command_r,
    "cohere2": _cohere2,
    "glm4": _glm4,
    "smollm3": _smollm3,
    "olmo2": _olmo2,
    "granite": _granite,
    "gpt-oss": _gpt_oss,
}
"""Architecture → what its config.json has beside what all have."""


def _layer_types(config: Mapping[str, Any], every: int) -> list[str]:
    """Every so many layers one attends to everything; the others slide."""
    kinds = ("full_attention", "sliding_attention")
    return [kinds[(layer + 1) % every != 0] for layer in range(config["num_hidden_layers"])]


def _query_scale(config: Mapping[str, Any], large_layers: int) -> int:
    is_large = config["num_hidden_layers"] == large_layers
    return int(config["hidden_size"] // config["num_attention_heads"] if is_large else config["head_dim"])
