"""Attention of a ragged step over its blocks: two batched products around a softmax, in plain torch.

The query heads that share a key/value head are folded into the rows of one product of [queries · group, dim].
`scaled_dot_product_attention` isn't used: on a CPU its grouped form is 17–33 times slower at one query, and its
causal form takes most of a 512-token prefill. Softmax is computed in float32 whatever the dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from histrio_torch.blocks import DeviceGroup, DevicePart, PagedCache

__all__ = ["ATTENTION_NAME", "attend", "attend_latent", "paged_attention_forward", "register_attention"]

ATTENTION_NAME = "histrio_paged"
"""`attn_implementation` under which transformers finds `paged_attention_forward`."""

_TRUSTED_DEVICES = ("cpu", "cuda")


@dataclass(frozen=True, slots=True)
class _Scoring:
    """Which keys a layer sees, and how it turns products into weights."""

    scale: float
    window: int | None = None
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
    """Write the step's keys and values, then attend each row over its blocks.

    query [tokens, heads, key_dim], key and value [tokens, kv_heads, dim] → [tokens, heads, value_dim]. A query at
    position p sees keys in (p - window, p]. Scores are `softcap * tanh(score / softcap)` with one (Gemma 2).
    """
    scoring = _Scoring(scale, window, softcap, sinks)
    return _attend_blocks(cache, layer_index, (query, *cache.write(layer_index, key, value)), scoring)


def attend_latent(
    cache: PagedCache, layer_index: int, query: Tensor, latent: Tensor, *, scale: float, value_dim: int
) -> Tensor:
    """Write the step's latents, then attend with queries that were projected into the latent space (absorbed MLA).

    query [tokens, heads, width], latent [tokens, width] → [tokens, heads, value_dim], the weighted sum of the first
    `value_dim` numbers of each latent.
    """
    inputs = (query, *cache.write(layer_index, latent, None))
    return _attend_blocks(cache, layer_index, inputs, _Scoring(scale))[..., :value_dim]


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
    """Make `ATTENTION_NAME` known to transformers. Safe to call twice.

    No mask function is registered: for an unknown name transformers makes no mask at once, which saves 0.2 ms a step.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION_NAME, paged_attention_forward)


def _attend_blocks(
    cache: PagedCache, layer_index: int, inputs: tuple[Tensor, Tensor, Tensor | None], scoring: _Scoring
) -> Tensor:
    query, key, value = inputs
    shape = cache.layers[layer_index]
    num_tokens, num_heads, _ = query.shape
    groups = cache.groups(scoring.window)
    output = query.new_empty(num_tokens, num_heads, shape.value_dim or shape.key_dim)
    for group in groups:
        keys, values = cache.gather(layer_index, group, key, value)
        for part in group.parts:
            result = _attend_part(part, query[part.tokens], _of_part(part, group, keys, values), scoring)
            if len(groups) == len(group.parts) == 1 and part.is_in_order:
                return result.reshape(output.shape)

            _put(output, part, result)

    return output


def _of_part(part: DevicePart, group: DeviceGroup, keys: Tensor, values: Tensor | None) -> tuple[Tensor, Tensor]:
    """The keys and values [rows * kv_heads, keys, dim] of a part, of those of its group; latents are both."""
    values = keys if values is None else values
    if len(group.parts) == 1:
        return keys, values

    num_kv_heads = len(keys) // group.num_rows
    heads = slice(part.rows.start * num_kv_heads, part.rows.stop * num_kv_heads)
    return keys[heads], values[heads]


def _attend_part(part: DevicePart, query: Tensor, memory: tuple[Tensor, Tensor], scoring: _Scoring) -> Tensor:
    """Queries [rows * queries, heads, dim] → a view [rows, queries, kv_heads, group, dim]."""
    keys, values = memory
    queries = _fold(query, part, len(keys) // part.num_rows)
    return _unfold(torch.bmm(_weights(queries, keys, part, scoring), values), part)


def _put(output: Tensor, part: DevicePart, result: Tensor) -> None:
    """Write [rows, queries, kv_heads, group, dim] to where the part's tokens are in [tokens, heads, dim]."""
    if part.is_in_order:
        output[part.targets].view(result.shape).copy_(result)
        return

    flat = result.reshape(-1, *output.shape[1:])
    output[part.targets] = flat if part.kept is None else flat[part.kept]


def _fold(query: Tensor, part: DevicePart, num_kv_heads: int) -> Tensor:
    """[rows * queries, heads, dim] → [rows * kv_heads, queries * group, dim]; no copy for one query per row."""
    folded = query.reshape(part.num_rows, part.num_queries, num_kv_heads, -1, query.shape[-1])
    return folded.transpose(1, 2).reshape(part.num_rows * num_kv_heads, -1, query.shape[-1])


def _unfold(result: Tensor, part: DevicePart) -> Tensor:
    """[rows * kv_heads, queries * group, dim] → a view [rows, queries, kv_heads, group, dim]."""
    folded = result.view(part.num_rows, -1, part.num_queries, result.shape[1] // part.num_queries, result.shape[2])
    return folded.transpose(1, 2)


def _weights(queries: Tensor, keys: Tensor, part: DevicePart, scoring: _Scoring) -> Tensor:
    """[rows * kv_heads, queries * group, keys], each line adding up to 1."""
    batch, num_lines, _ = queries.shape
    # beta=0 promises on CPU and CUDA that what the memory holds doesn't count.
    make = queries.new_empty if queries.device.type in _TRUSTED_DEVICES else queries.new_zeros
    scores = make(batch, num_lines, keys.shape[1])
    torch.baddbmm(scores, queries, keys.transpose(1, 2), beta=0, alpha=scoring.scale, out=scores)
    if scoring.softcap is not None:
        scores.div_(scoring.softcap).tanh_().mul_(scoring.softcap)
    num_group = num_lines // part.num_queries
    bias = part.bias(num_group)
    if bias is not None:
        lines = scores.view(part.num_rows, -1, num_lines, keys.shape[1])
        lines[..., part.first_masked :].add_(bias)
    if scoring.sinks is None:
        return _softmax(scores)

    sinks = scoring.sinks.to(scores.dtype).view(1, -1, 1, num_group)
    sinks = sinks.expand(part.num_rows, -1, part.num_queries, -1).reshape(batch, num_lines, 1)
    return _softmax(torch.cat([scores, sinks], dim=-1))[..., :-1]


def _softmax(scores: Tensor) -> Tensor:
    # On these devices half precisions are summed in float32 inside the operator, and only the result is rounded: the
    # same numbers as with a conversion before and after, without the two large tensors in between.
    if scores.device.type in _TRUSTED_DEVICES:
        return torch.softmax(scores, dim=-1)

    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(scores.dtype)
