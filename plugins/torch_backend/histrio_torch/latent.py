"""Multi-head latent attention (DeepSeek-V2/V3) over blocks that hold the latent, not the heads expanded from it.

A key is W_uk · latent beside the rotary part, a value W_uv · latent. So a score is (W_ukᵀ · query) · latent, and the
weighted sum can be taken over latents and expanded once: the two products move to the query's and the output's side
("absorbed", DeepSeek-V2, section 2.1.2). A token then costs kv_lora_rank + rope numbers, not heads × (key + value).
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from histrio_torch.attention import attend_latent
from histrio_torch.blocks import LayerShape, PagedCache

__all__ = ["LATENT_ATTENTION", "absorb_latents", "latent_attention_forward", "register_latent_attention"]

LATENT_ATTENTION = "histrio_latent"
"""`attn_implementation` under which transformers finds `latent_attention_forward`."""


class _Absorbed:
    """What one layer's absorbed attention needs."""

    def __init__(self, module: Any) -> None:
        self.key_dim = int(module.qk_nope_head_dim)
        rank = int(module.kv_lora_rank)
        expand: torch.Tensor = module.kv_b_proj.weight.detach()
        expand = expand.view(-1, self.key_dim + int(module.v_head_dim), rank)
        self.key_weight = expand[:, : self.key_dim]
        """[heads, nope, rank]"""
        self.value_weight = expand[:, self.key_dim :].transpose(1, 2)
        """[heads, rank, value]"""
        self.rank = rank
        self.shape = LayerShape(1, rank + int(module.qk_rope_head_dim), 0)


def register_latent_attention() -> None:
    """Make `LATENT_ATTENTION` known to transformers. Safe to call twice."""
    from transformers import AttentionInterface

    AttentionInterface.register(LATENT_ATTENTION, latent_attention_forward)


def absorb_latents(model: nn.Module) -> dict[int, LayerShape]:
    """Make every latent attention of the model hand over latents; returns the shape of each such layer by index.

    Its `expand_kv` becomes the identity and its expanding projection is taken apart, so the module's own forward runs
    and reaches `latent_attention_forward` with unexpanded latents.
    """
    shapes = {}
    for module in list(model.modules()):
        if not _is_latent(module):
            continue

        absorbed = _Absorbed(module)
        vars(module)["histrio_latent"] = absorbed
        vars(module)["expand_kv"] = _keep_latent
        module.kv_b_proj = nn.Identity()
        shapes[int(module.layer_idx)] = absorbed.shape  # type: ignore[arg-type]
    return shapes


def latent_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """[1, heads, tokens, nope + rope], latents [1, 1, tokens, rank] and […, rope] → [1, tokens, heads, value]."""
    absorbed: _Absorbed = vars(module)["histrio_latent"]
    cache: PagedCache = vars(module)["histrio_cache"]
    plain, rotary = query[0, ..., : absorbed.key_dim], query[0, ..., absorbed.key_dim :]
    queries = torch.cat([torch.bmm(plain, absorbed.key_weight), rotary], dim=-1).transpose(0, 1)
    latents = torch.cat([key[0, 0], value[0, 0]], dim=-1)
    layer: int = vars(module)["layer_idx"]
    mixed = attend_latent(cache, layer, queries, latents, scale=scaling, value_dim=absorbed.rank)
    expanded = torch.bmm(mixed.transpose(0, 1), absorbed.value_weight)
    return expanded.transpose(0, 1)[None], None


def _is_latent(module: nn.Module) -> bool:
    parts = ("expand_kv", "kv_b_proj", "kv_lora_rank", "qk_rope_head_dim", "layer_idx")
    if not all(hasattr(module, part) for part in parts):
        return False

    has_bias = getattr(module.kv_b_proj, "bias", None) is not None
    return len(inspect.signature(module.expand_kv).parameters) == 2 and not has_bias  # type: ignore[arg-type]


def _keep_latent(latent: torch.Tensor, rotary: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return latent, rotary
