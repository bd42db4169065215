"""Attention of a ragged step over its pages: two batched products around a softmax, in plain torch.

The query heads that share a key/value head are folded into the rows of one product of [queries · group, dim].
`scaled_dot_product_attention` isn't used: on a CPU its grouped form is 17–33 times slower at one query, and its
causal form takes most of a 512-token prefill. Softmax is computed in float32 whatever the dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from histrio_torch.pages import DeviceGroup, PagedCache
from histrio_torch.row_groups import QueryBlock

__all__ = ["ATTENTION_NAME", "attend", "attend_latent", "paged_attention_forward", "register_attention", "write_latent"]

ATTENTION_NAME = "histrio_paged"
"""`attn_implementation` under which transformers finds `paged_attention_forward`."""


@dataclass(frozen=True, slots=True)
class _Scoring:
    """How a layer turns products into weights."""

    scale: float
    softcap: float | None = None
    sinks: Tensor | None = None
    """[heads] a logit of each head that takes weight and gives nothing."""


def attend(
    cache: PagedCache,
    layer_index: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Write the step's keys and values, then attend each row over its pages.

    query [tokens, heads, key_dim], key and value [tokens, kv_heads, dim] → [tokens, heads, value_dim]. A query at
    position p sees keys in (p - window, p]. Scores are `softcap * tanh(score / softcap)` with one (Gemma 2).
    """
    cache.write(layer_index, key, value)
    return _attend_pages(cache, layer_index, query, window, _Scoring(scale, softcap, sinks))


def write_latent(cache: PagedCache, layer_index: int, latent: Tensor) -> None:
    """Store [tokens, width] latents (compressed key-value and rotary key) in a layer with `value_dim` 0."""
    cache.write(layer_index, latent, None)


def attend_latent(
    cache: PagedCache, layer_index: int, query: Tensor, latent: Tensor, *, scale: float, value_dim: int
) -> Tensor:
    """Write the step's latents, then attend with queries that were projected into the latent space (absorbed MLA).

    query [tokens, heads, width], latent [tokens, width] → [tokens, heads, value_dim], the weighted sum of the first
    `value_dim` numbers of each latent.
    """
    write_latent(cache, layer_index, latent)
    return _attend_pages(cache, layer_index, query, None, _Scoring(scale))[..., :value_dim]


def paged_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in place of its own attention: [1, heads, tokens, dim] → [1, tokens, heads, dim].

    The running step is found at `module.histrio_cache`, set when the model was loaded. The mask is ignored: the step's
    positions say all there is.
    """
    output = attend(
        module.histrio_cache,  # type: ignore[arg-type]
        module.layer_idx,  # type: ignore[arg-type]
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        scale=scaling,
        window=sliding_window,
        softcap=softcap,
        sinks=s_aux,
    )
    return output[None], None


def register_attention() -> None:
    """Make `ATTENTION_NAME` known to transformers, with a mask function that makes no mask. Safe to call twice."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(ATTENTION_NAME, paged_attention_forward)
    AttentionMaskInterface.register(ATTENTION_NAME, _no_mask)


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


def _attend_pages(cache: PagedCache, layer_index: int, query: Tensor, window: int | None, scoring: _Scoring) -> Tensor:
    shape = cache.layers[layer_index]
    num_tokens, num_heads, _ = query.shape
    output = query.new_empty(num_tokens, num_heads, shape.value_dim or shape.key_dim)
    for group in cache.groups(window):
        keys, values = cache.gather(layer_index, group)
        values = keys if values is None else values
        queries = _fold(query[group.tokens], group, shape.num_kv_heads)
        for block, bias in zip(group.rows.blocks, group.biases, strict=True):
            part = queries[:, block.first_token : block.end_token]
            weights = _weights(part, keys, block, bias, scoring)
            result = torch.bmm(weights, values[:, block.first_key : block.end_key])
            _unfold(result, output, group, block)

    return output


def _fold(query: Tensor, group: DeviceGroup, num_kv_heads: int) -> Tensor:
    """[rows * tokens, heads, dim] → [rows * kv_heads, tokens, group, dim]; no copy for one token per row."""
    rows, tokens = group.rows.num_rows, group.rows.num_tokens
    folded = query.reshape(rows, tokens, num_kv_heads, -1, query.shape[-1])
    return folded.transpose(1, 2).flatten(0, 1)


def _unfold(result: Tensor, output: Tensor, group: DeviceGroup, block: QueryBlock) -> None:
    """Put [rows * kv_heads, queries * group, dim] where the block's tokens are in [tokens, heads, dim]."""
    rows, queries = group.rows.num_rows, block.end_token - block.first_token
    _, num_heads, dim = output.shape
    unfolded = result.view(rows, -1, queries, num_heads * rows // len(result), dim).transpose(1, 2)
    if isinstance(group.tokens, slice):
        target = output[group.tokens].view(rows, group.rows.num_tokens, -1, unfolded.shape[3], dim)
        target[:, block.first_token : block.end_token].copy_(unfolded)
        return

    indices = group.tokens.view(rows, -1)[:, block.first_token : block.end_token].reshape(-1)
    output.index_copy_(0, indices, unfolded.reshape(rows * queries, num_heads, dim))


def _weights(query: Tensor, keys: Tensor, block: QueryBlock, bias: Tensor | None, scoring: _Scoring) -> Tensor:
    """[rows * kv_heads, queries * group, keys of the block], each line adding up to 1."""
    visible = keys[:, block.first_key : block.end_key]
    batch, num_queries, num_group, dim = query.shape
    scores = torch.bmm(query.reshape(batch, num_queries * num_group, dim), visible.transpose(1, 2)).mul_(scoring.scale)
    if scoring.softcap is not None:
        scores.div_(scoring.softcap).tanh_().mul_(scoring.softcap)
    if bias is not None:
        lines = scores.view(len(bias), -1, num_queries, num_group, scores.shape[-1])
        lines[..., block.first_masked - block.first_key :].add_(bias)
    if scoring.sinks is None:
        return torch.softmax(scores, dim=-1, dtype=torch.float32).to(scores.dtype)

    num_heads = len(scoring.sinks)
    sinks = scoring.sinks.to(scores.dtype).view(1, num_heads // num_group, 1, num_group, 1)
    sinks = sinks.expand(batch * num_group // num_heads, -1, num_queries, -1, -1).reshape(batch, -1, 1)
    return torch.softmax(torch.cat([scores, sinks], dim=-1), dim=-1, dtype=torch.float32)[..., :-1].to(scores.dtype)
