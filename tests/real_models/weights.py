"""Tensors of a GGUF file under the names, and in the form, that transformers gives them."""

from __future__ import annotations

import re
from typing import Any

import torch

_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LLAMA_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_GEMMA_NORMS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def tensors(content: Any, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Name → bfloat16 tensor, of everything in the file."""
    from gguf.quants import dequantize

    is_gemma = config["model_type"].startswith("gemma")
    made = {}
    for tensor in content.tensors:
        name = _renamed(tensor.name, _GEMMA_NORMS if is_gemma else _LLAMA_NORMS)
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy()).float()
        values = values.reshape(*(int(size) for size in reversed(tensor.shape)))
        if is_gemma and name.endswith("norm.weight"):
            values -= 1  # the file has what the norm multiplies by, transformers the difference to one
        if not is_gemma and name.endswith(("q_proj.weight", "k_proj.weight")):
            kind = "num_attention_heads" if name.endswith("q_proj.weight") else "num_key_value_heads"
            values = _halves(values, config[kind])
        made[name] = values.bfloat16().contiguous()
    return made


def _renamed(name: str, norms: dict[str, str]) -> str:
    if name in _NAMES:
        return _NAMES[name]

    found = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    assert found is not None, f"the file has an unknown tensor {name}"
    return f"model.layers.{found[1]}.{({**_LAYER_NAMES, **norms})[found[2]]}.weight"


def _halves(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Llama's rotary pairs lie side by side in a GGUF file, half a head apart in transformers."""
    rows, columns = weight.shape
    pairs = weight.view(num_heads, rows // num_heads // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)
