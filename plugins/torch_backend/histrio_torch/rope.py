"""Rotary positions must not depend on the batch.

transformers picks LongRoPE's short or long factors, and dynamic NTK's base, by the longest position of the batch: a
short row beside a long one would change. Here they are fixed at load for the longest sequence that the stage accepts,
and the per-batch update is switched off. So a model that is served up to its original length gets the short
factors, any other the long ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from histrio.errors import UnsupportedModel

__all__ = ["fix_rope"]

_FIXED = "fixed"
"""A name of no known rope type, so that transformers updates nothing."""
_STATIC = ("default", "linear", "yarn", "llama3", "proportional", "ntk_alpha", _FIXED)


def fix_rope(model: nn.Module, max_sequence_length: int) -> int:
    """Fix the frequencies of all rotary modules; returns how many were not static. Raises `UnsupportedModel`."""
    num_fixed = 0
    for module in model.modules():
        rope_type = vars(module).get("rope_type")
        if isinstance(rope_type, str):
            num_fixed += _fix(module, rope_type, None, max_sequence_length)
        if isinstance(rope_type, dict):
            for layer_type, name in list(rope_type.items()):
                num_fixed += _fix(module, name, layer_type, max_sequence_length)
    return num_fixed


def _fix(module: nn.Module, rope_type: str, layer_type: str | None, max_sequence_length: int) -> bool:
    if rope_type in _STATIC:
        return False

    if rope_type not in ("dynamic", "longrope"):
        raise UnsupportedModel(f"rotary positions of type {rope_type!r} may depend on the batch and are not supported")

    frequencies, scaling = _frequencies(module, rope_type, layer_type, max_sequence_length)
    prefix = "" if layer_type is None else f"{layer_type}_"
    buffer: torch.Tensor = getattr(module, f"{prefix}inv_freq")
    module.register_buffer(f"{prefix}inv_freq", frequencies.to(buffer), persistent=False)
    vars(module)[f"{prefix}attention_scaling"] = scaling
    if layer_type is None:
        vars(module)["rope_type"] = _FIXED
    else:
        vars(module)["rope_type"][layer_type] = _FIXED
    return True


def _frequencies(
    module: nn.Module, rope_type: str, layer_type: str | None, max_sequence_length: int
) -> tuple[torch.Tensor, Any]:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    kwargs = {} if layer_type is None else {"layer_type": layer_type}
    config = module.config
    frequencies, scaling = ROPE_INIT_FUNCTIONS[rope_type](config, "cpu", seq_len=max_sequence_length, **kwargs)
    return frequencies, scaling
