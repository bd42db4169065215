"""How many pages a stage can hold, and what is done with them beside computing."""

from __future__ import annotations

import math
from typing import Any

import torch

from histrio.contracts.backend import StageSpec
from histrio.errors import DoesNotFit
from histrio_torch.memory import Budget

__all__ = ["bytes_per_token", "copy_pages", "most_pages"]


def bytes_per_token(model_config: Any, num_layers: int, dtype: torch.dtype) -> int:
    """Bytes one token takes in the pool: a key and a value of every head in every layer."""
    heads: int = model_config.get_num_kv_heads(1)
    width: int = model_config.head_dim + (getattr(model_config, "v_head_dim", None) or model_config.head_dim)
    return num_layers * heads * width * dtype.itemsize


def most_pages(budget: Budget, token_bytes: int, page_size: int, spec: StageSpec) -> int:
    """Pages beside the weights, at most what `max_rows` sequences of full length take. Raises `DoesNotFit`."""
    page_bytes = token_bytes * page_size
    share = min(int(budget.total_bytes * spec.kvcache_mem_ratio), budget.free_bytes)
    useful = spec.max_rows * math.ceil(spec.max_sequence_length / page_size)
    wanted = spec.num_pages if spec.num_pages is not None else 1
    allowed = budget.free_bytes if spec.num_pages is not None else share
    if wanted * page_bytes > allowed:
        raise DoesNotFit(
            f"{wanted} pages of {page_size} tokens need {wanted * page_bytes / 2**30:.2f} GiB; {budget.device} has "
            f"{budget.free_bytes / 2**30:.2f} GiB free beside the weights, and kvcache-mem-ratio "
            f"{spec.kvcache_mem_ratio} allows {share / 2**30:.2f} GiB: lower the number of pages or raise the ratio"
        )

    return wanted if spec.num_pages is not None else min(useful, share // page_bytes)


def copy_pages(pool: Any, src: list[int], dst: list[int], page_size: int) -> None:
    """Copy pages in all layers of SGLang's pool."""
    buffers = [*pool.k_buffer, *pool.v_buffer]
    within = torch.arange(page_size)
    source = (torch.tensor(src)[:, None] * page_size + within).flatten().to(buffers[0].device)
    target = (torch.tensor(dst)[:, None] * page_size + within).flatten().to(buffers[0].device)
    for buffer in buffers:
        buffer[target] = buffer[source]
