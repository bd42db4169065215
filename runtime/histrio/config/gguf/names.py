"""What transformers calls the tensors of a GGUF file, and in which of them values stand differently there."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from histrio.config.gguf.block_types import BLOCK_TYPES
from histrio.config.gguf.header import GgufTensor
from histrio.errors import UnsupportedModel

__all__ = ["ARCHITECTURES", "NamedTensor", "name_tensors"]

ARCHITECTURES = (
    *("llama", "qwen2", "qwen3", "qwen3moe", "gemma2", "gemma3", "phi3", "command-r", "cohere2", "glm4", "smollm3"),
    *("olmo2", "granite", "gpt-oss"),
)
"""Names of the architectures that are read (`general.architecture`)."""


class NamedTensor(msgspec.Struct, frozen=True, omit_defaults=True):
    """One tensor, under the name that transformers has for it; the values are in the file, and are not copied."""

    name: str
    """As in published safetensors: `model.layers.3.self_attn.q_proj.weight`; experts have one each."""
    block_type: int
    """Number of its format, in `BLOCK_TYPES`."""
    shape: tuple[int, ...]
    """Rows first."""
    offset: int
    """First byte of its data in the file."""
    num_bytes: int
    file_index: int = 0
    """In which file of a split set."""
    rotary_pairs_adjacent: bool = False
    """The rows of each head are permuted: the two that are rotated together are neighbours here, 2i and 2i + 1, where
    transformers has them half a head apart, i and i + half."""
    has_one_added: bool = False
    """The weight of a norm that is the factor itself here, where transformers has the difference to one."""


_ENDS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_ATTENTION = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_sinks": "self_attn.sinks",
}
_FEED_FORWARD = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_GATED_IN_ONE = {"ffn_up": "mlp.gate_up_proj", "ffn_down": "mlp.down_proj"}
_TWO_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_FOUR_NORMS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_LLAMA = _FEED_FORWARD | _TWO_NORMS
_GEMMA = _FEED_FORWARD | _FOUR_NORMS
_COHERE = _FEED_FORWARD | {"attn_norm": "input_layernorm"}
_PARTS: dict[str, dict[str, str]] = {
    **dict.fromkeys(("llama", "qwen2", "qwen3", "qwen3moe", "smollm3", "granite"), _LLAMA),
    **dict.fromkeys(("gemma2", "gemma3"), _GEMMA),
    **dict.fromkeys(("command-r", "cohere2"), _COHERE),
    "phi3": _GATED_IN_ONE | _TWO_NORMS,
    "glm4": {
        **_GATED_IN_ONE,
        "attn_norm": "input_layernorm",
        "post_attention_norm": "post_self_attn_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "post_ffw_norm": "post_mlp_layernorm",
    },
    "olmo2": {
        **_FEED_FORWARD,
        "post_attention_norm": "post_attention_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
    "gpt-oss": {"attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm"},
}
"""Architecture → what stands in its layers beside attention."""
_ROUTERS = {"llama": "block_sparse_moe.gate", "qwen3moe": "mlp.gate", "gpt-oss": "mlp.router"}
_PROJECTIONS = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
_EXPERTS = {
    "llama": ("block_sparse_moe.experts", {"gate": "w1", "up": "w3", "down": "w2"}),
    "qwen3moe": ("mlp.experts", _PROJECTIONS),
    "gpt-oss": ("mlp.experts", _PROJECTIONS),
}
"""Architecture → where its experts are, and what their projections are called."""
_PERMUTED = ("llama", "smollm3", "granite")
"""Architectures whose queries and keys are written in pairs, for the rotation of neighbours."""
_ONE_ADDED = ("gemma2", "gemma3")
_UNUSED = re.compile(
    r"rope_freqs\.weight|rope_factors_(long|short)\.weight|blk\.\d+\.(attn_rot_embd|rope_freqs)\.weight"
)
"""Tables of rotary positions, which config.json describes."""
_LAYER = re.compile(r"blk\.(\d{1,6})\.([a-z_0-9]+)\.(weight|bias)")
_STACKED = re.compile(r"ffn_(gate|up|down)_exps")
_SINGLE = re.compile(r"blk\.(\d{1,6})\.ffn_(gate|up|down)\.(\d{1,6})\.weight")
"""One expert each, as files of 2023 have them."""


def name_tensors(architecture: str, tensors: list[GgufTensor], file_index: int, file: object) -> Iterator[NamedTensor]:
    """The tensors of one file, under transformers' names. Raises `UnsupportedModel` for one that has no place."""
    for tensor in tensors:
        if _UNUSED.fullmatch(tensor.name):
            continue
        found = list(_named(architecture, tensor, file_index))
        if not found:
            raise UnsupportedModel(
                f"{file}: models of architecture {architecture} have no tensor {tensor.name[:80]!r}; the file holds "
                "something else, or is newer than this version of histrio"
            )
        yield from found


def _named(architecture: str, tensor: GgufTensor, file_index: int) -> Iterator[NamedTensor]:
    def entry(name: str, **notes: bool) -> NamedTensor:
        return NamedTensor(name, tensor.block_type, tensor.shape, tensor.offset, tensor.num_bytes, file_index, **notes)

    end, _, suffix = tensor.name.rpartition(".")
    if end in _ENDS and suffix in ("weight", "bias"):
        yield entry(f"{_ENDS[end]}.{suffix}", has_one_added=architecture in _ONE_ADDED and end == "output_norm")
        return
    single = _SINGLE.fullmatch(tensor.name)
    if single and architecture in _EXPERTS:
        module, names = _EXPERTS[architecture]
        yield entry(f"model.layers.{int(single[1])}.{module}.{int(single[3])}.{names[single[2]]}.weight")
        return
    layer = _LAYER.fullmatch(tensor.name)
    if layer is None:
        return
    prefix, part, suffix = f"model.layers.{int(layer[1])}", layer[2], layer[3]
    stacked = _STACKED.fullmatch(part)
    if stacked and architecture in _EXPERTS:
        yield from _experts(architecture, entry(prefix), stacked[1], suffix)
        return
    name = _part_name(architecture, part)
    if name is not None:
        yield entry(
            f"{prefix}.{name}" if part == "attn_sinks" else f"{prefix}.{name}.{suffix}",
            rotary_pairs_adjacent=architecture in _PERMUTED and part in ("attn_q", "attn_k"),
            has_one_added=architecture in _ONE_ADDED and part.endswith("norm"),
        )


def _part_name(architecture: str, part: str) -> str | None:
    if part == "ffn_gate_inp":
        return _ROUTERS.get(architecture)
    return _ATTENTION.get(part) or _PARTS[architecture].get(part)


def _experts(architecture: str, stack: NamedTensor, projection: str, suffix: str) -> Iterator[NamedTensor]:
    """The experts of a stack, which lie one behind the other."""
    module, names = _EXPERTS[architecture]
    num_experts, *shape = stack.shape
    num_bytes = stack.num_bytes // num_experts
    if not shape or (len(shape) == 1 and suffix == "weight"):
        return
    assert BLOCK_TYPES[stack.block_type].num_bytes(shape[-1]) * num_experts <= stack.num_bytes
    for expert in range(num_experts):
        yield msgspec.structs.replace(
            stack,
            name=f"{stack.name}.{module}.{expert}.{names[projection]}.{suffix}",
            shape=tuple(shape),
            offset=stack.offset + expert * num_bytes,
            num_bytes=num_bytes,
        )
