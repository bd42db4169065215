"""Log probabilities that clients ask for: of the chosen tokens, and of the most likely ones beside them.

They are the model's own, the log-softmax of its raw logits before any penalty, temperature or truncation, so they tell
the distribution of the model and not that of the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from histrio.contracts.backend import Array, ArrayNamespace
from histrio.messages import WHOLE_VOCABULARY, TokenLogprobs

__all__ = ["Named", "TokenLogprobs", "token_logprobs"]

Named: TypeAlias = Sequence[Sequence[int]]
"""For each row the ids of tokens that are told of in place of the most likely ones; empty for those."""


def token_logprobs(
    xp: ArrayNamespace,
    logits: Array,
    ids: Sequence[int],
    num_top: Sequence[int],
    named: Named = (),
    *,
    with_ranks: bool = False,
) -> list[TokenLogprobs]:
    """One entry per row of `logits` [rows, vocab]: of the token `ids[r]`, and of the `num_top[r]` most likely ones, of
    those in `named[r]`, or of all of them, packed, where `num_top[r]` is `WHOLE_VOCABULARY`.

    Also serves prompt tokens, whose ids are given rather than drawn. Ranks cost one more pass over the logits, which
    are not modified.
    """
    chunk_rows = max(1, xp.chunk_values // logits.shape[-1])
    found: list[TokenLogprobs] = []
    for start in range(0, len(ids), chunk_rows):
        end = start + chunk_rows
        rows = logits[start:end], ids[start:end], num_top[start:end], named[start:end]
        found.extend(_of_chunk(xp, *rows, with_ranks))
    return found


def _of_chunk(
    xp: ArrayNamespace, logits: Array, ids: Sequence[int], num_top: Sequence[int], named: Named, with_ranks: bool
) -> list[TokenLogprobs]:
    logprobs = xp.log_softmax(xp.float32(logits))
    chosen = xp.take_along(logprobs, xp.asarray(np.array(ids, np.int64)[:, None]))
    ranks = xp.to_host(xp.sum(logprobs >= chosen))[:, 0].tolist() if with_ranks else [0] * len(ids)
    tops = _likeliest(xp, logprobs, num_top) if max(num_top) > 0 else [[] for _ in ids]
    if any(named):
        tops = [own or top for own, top in zip(_named(xp, logprobs, named), tops, strict=True)]
    of_chosen = xp.to_host(chosen)[:, 0].tolist()
    packed = (_packed(xp, logprobs, row) if num == WHOLE_VOCABULARY else b"" for row, num in enumerate(num_top))
    return [TokenLogprobs(*each) for each in zip(of_chosen, tops, ranks, packed, strict=True)]


def _packed(xp: ArrayNamespace, logprobs: Array, row: int) -> bytes:
    values: bytes = xp.to_host(logprobs[row : row + 1]).astype("<f4").tobytes()
    return values


def _likeliest(xp: ArrayNamespace, logprobs: Array, num_top: Sequence[int]) -> list[list[tuple[int, float]]]:
    values, tokens = (xp.to_host(array) for array in xp.topk(logprobs, max(num_top)))
    return [
        list(zip(tokens[row, :count].tolist(), values[row, :count].tolist(), strict=True)) if count > 0 else []
        for row, count in enumerate(num_top)
    ]


def _named(xp: ArrayNamespace, logprobs: Array, named: Named) -> list[list[tuple[int, float]]]:
    tokens = np.zeros((len(named), max(map(len, named))), np.int64)
    for row, ids in enumerate(named):
        tokens[row, : len(ids)] = ids
    values = xp.to_host(xp.take_along(logprobs, xp.asarray(tokens)))
    pairs = (zip(ids, values[row].tolist(), strict=False) for row, ids in enumerate(named))
    return [sorted(each, key=lambda pair: -pair[1]) for each in pairs]
