"""How much memory a token takes in SGLang's pool, and what is done with pages beside computing."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["bytes_per_token", "copy_blocks"]


def bytes_per_token(model_config: Any, num_layers: int, dtype: torch.dtype) -> int:
    """Bytes one token takes in the pool: a key and a value of every head in every layer."""
    heads: int = model_config.get_num_kv_heads(1)
    width: int = model_config.head_dim + (getattr(model_config, "v_head_dim", None) or model_config.head_dim)
    return num_layers * heads * width * dtype.itemsize


def copy_blocks(pool: Any, src: list[int], dst: list[int], page_size: int) -> None:
    """Copy pages in all layers of SGLang's pool."""
    buffers = [*pool.k_buffer, *pool.v_buffer]
    within = torch.arange(page_size)
    source = (torch.tensor(src)[:, None] * page_size + within).flatten().to(buffers[0].device)
    target = (torch.tensor(dst)[:, None] * page_size + within).flatten().to(buffers[0].device)
    for buffer in buffers:
        buffer[target] = buffer[source]
