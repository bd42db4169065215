"""Log probabilities that clients ask for: of the chosen tokens, and of the most likely ones beside them.

They are the model's own, the log-softmax of its raw logits before any penalty, temperature or truncation, so they tell
the distribution of the model and not that of the request.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from histrio.contracts.backend import Array, ArrayNamespace
from histrio.messages import TokenLogprobs

__all__ = ["TokenLogprobs", "token_logprobs"]


def token_logprobs(
    xp: ArrayNamespace, logits: Array, ids: Sequence[int], num_top: Sequence[int], *, with_ranks: bool = False
) -> list[TokenLogprobs]:
    """One entry per row of `logits` [rows, vocab]: of the token `ids[r]`, and of the `num_top[r]` most likely ones.

    Also serves prompt tokens, whose ids are given rather than drawn. Ranks cost one more pass over the logits, which
    are not modified.
    """
    chunk_rows = max(1, xp.chunk_values // logits.shape[-1])
    found: list[TokenLogprobs] = []
    for start in range(0, len(ids), chunk_rows):
        end = start + chunk_rows
        found.extend(_of_chunk(xp, logits[start:end], ids[start:end], num_top[start:end], with_ranks))
    return found


def _of_chunk(
    xp: ArrayNamespace, logits: Array, ids: Sequence[int], num_top: Sequence[int], with_ranks: bool
) -> list[TokenLogprobs]:
    logprobs = xp.log_softmax(xp.float32(logits))
    chosen = xp.take_along(logprobs, xp.asarray(np.array(ids, np.int64)[:, None]))
    ranks = xp.to_host(xp.sum(logprobs >= chosen))[:, 0].tolist() if with_ranks else [0] * len(ids)
    of_chosen = zip(xp.to_host(chosen)[:, 0].tolist(), ranks, strict=True)
    if not any(num_top):
        return [TokenLogprobs(logprob, rank=rank) for logprob, rank in of_chosen]

    values, tokens = (xp.to_host(array) for array in xp.topk(logprobs, max(num_top)))
    return [
        TokenLogprobs(logprob, list(zip(tokens[row, :count].tolist(), values[row, :count].tolist(), strict=True)), rank)
        for row, ((logprob, rank), count) in enumerate(zip(of_chosen, num_top, strict=True))
    ]
