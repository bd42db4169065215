"""Tiny random checkpoints in the format of Hugging Face, written with numpy alone.

Weights are drawn with a deviation that makes greedy streams wander: with the usual initialisation a model says one
token for ever, and a test of equality would see nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["EOS_ID", "MODELS", "VOCAB_SIZE", "write_model", "write_safetensors", "write_tokenizer"]

VOCAB_SIZE = 258
"""256 bytes, and the begin and end of a message."""
EOS_ID = 257

_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "attention_bias": False,
    "bos_token_id": 256,
    "eos_token_id": EOS_ID,
    "torch_dtype": "float32",
}
_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "mlp_bias": False,
    "tie_word_embeddings": False,
    # As transformers 5 writes it, and not at the default: a backend that overlooks it computes something else.
    "rope_parameters": {"rope_type": "default", "rope_theta": 3000.0},
}
_QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "use_sliding_window": False,
}

MODELS: Mapping[str, Mapping[str, Any]] = {
    "llama": {**_SIZES, **_LLAMA},
    "qwen3": {**_SIZES, **_QWEN3, "tie_word_embeddings": False},
    "qwen3_tied": {**_SIZES, **_QWEN3, "tie_word_embeddings": True},
}
"""Name → the configuration of a tiny model."""

_DTYPES = {"<f4": "F32", "<f2": "F16", "<i4": "I32", "<u4": "U32", "|i1": "I8", "|u1": "U8", "<i8": "I64"}
_Weights = dict[str, npt.NDArray[np.float32]]


def write_model(name: str, folder: Path, *, seed: int = 0) -> Path:
    """A folder that is the tiny model `name` of `MODELS` in float32, with a tokenizer. Returns the folder."""
    config = MODELS[name]
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": False, "eos_token_id": EOS_ID}))
    write_safetensors(folder / "model.safetensors", _draw_weights(config, np.random.default_rng(seed)))
    return folder


def write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer.json of `VOCAB_SIZE` tokens and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def write_safetensors(
    path: Path, tensors: Mapping[str, npt.NDArray[Any]], stored_as: Mapping[str, str] | None = None
) -> None:
    """The format in short: length of the header, header as JSON (name → dtype, shape, begin and end), raw data.

    `stored_as` names the number formats that numpy has only as bits (`BF16`, `F8_E4M3`).
    """
    bits = stored_as or {}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        dtype = bits.get(name) or _DTYPES[tensor.dtype.str]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor).tobytes())


def _draw_weights(config: Mapping[str, Any], random: np.random.Generator) -> _Weights:
    """Matrices with a gain of about 2 per layer, norms around 1."""
    weights: _Weights = {}
    for name, shape in _shapes(config).items():
        if len(shape) == 1:
            drawn = 1 + 0.2 * random.standard_normal(shape)
        elif name == "model.embed_tokens.weight":
            # tied to the head, a large one would make every token predict itself
            drawn = (0.03 if config["tie_word_embeddings"] else 1.0) * random.standard_normal(shape)
        else:
            drawn = 2.0 / math.sqrt(shape[1]) * random.standard_normal(shape)
        weights[name] = drawn.astype(np.float32)
    return weights


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes |= {prefix + name: shape for name, shape in _layer_shapes(config).items()}
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, hidden)
    return shapes


def _layer_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    if config["model_type"] == "qwen3":
        shapes |= {"self_attn.q_norm.weight": (head,), "self_attn.k_norm.weight": (head,)}
    return shapes
