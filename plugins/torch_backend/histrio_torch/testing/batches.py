"""Steps without a model, for tests and benchmarks of attention alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from histrio.contracts.backend import StepBatch

__all__ = ["make_batch"]


def make_batch(rows: Sequence[tuple[int, int, Sequence[int]]]) -> StepBatch:
    """A step of rows (tokens already in its blocks, new tokens, block ids), without token ids or hidden states."""
    starts, counts, tables = zip(*rows, strict=True)
    block_tables = np.zeros((len(rows), max(map(len, tables))), np.int32)
    for row, table in enumerate(tables):
        block_tables[row, : len(table)] = table
    spans = [np.arange(start, start + count, dtype=np.int64) for start, count in zip(starts, counts, strict=True)]
    return StepBatch(
        slots=np.arange(len(rows), dtype=np.int32),
        starts=np.asarray(starts, np.int32),
        num_tokens=np.asarray(counts, np.int32),
        num_sampled=np.ones(len(rows), np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        block_tables=block_tables,
        positions=np.concatenate(spans),
        token_ids=None,
        hidden=[],
    )
