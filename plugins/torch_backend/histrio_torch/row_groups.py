"""Which rows of a step are attended together, and which keys each block of queries sees.

Rows with equally many new tokens and similarly many pages share one product; a much longer row gets a group
of its own, so that it doesn't make the others as long as itself. A row with many new tokens (a prefill chunk) is a
group alone, cut into blocks of queries: keys behind a block are never read, keys before a window neither, and
scores stay bounded. Pure numpy: nothing here depends on the layer, so it runs once per step and window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histrio.backend import StepBatch

__all__ = ["QueryBlock", "RowGroup", "group_rows"]

MOST_SHARED_TOKENS = 16
"""Rows with more new tokens than this are attended alone."""
BLOCK_TOKENS = 128
"""Queries of one block of such a row."""
LEAST_FILL = 0.7
"""A row joins a group when it has at least this share of the pages of the group's longest row…"""
FREE_PAGES = 4
"""…or lacks at most so many."""

IndexArray = npt.NDArray[np.int64]


@dataclass(slots=True)
class QueryBlock:
    """Some queries of each row of a group, and the keys they see."""

    first_token: int
    end_token: int
    """Within the new tokens of a row."""
    first_key: int
    end_key: int
    """Within the keys of the group's pages."""
    first_masked: int
    """Keys from here to `end_key` aren't seen by all queries; those before are."""
    hidden: npt.NDArray[np.bool_]
    """[rows, queries, end_key - first_masked] true where a query must not see a key."""


@dataclass(slots=True)
class RowGroup:
    """Rows that are attended in one product."""

    tokens: IndexArray
    """[rows * num_tokens] their new tokens among those of the step."""
    num_rows: int
    num_tokens: int
    """New tokens of each row."""
    pages: IndexArray
    """[rows, pages] padded with the row's own first page."""
    blocks: list[QueryBlock]


def group_rows(batch: StepBatch, page_size: int, window: int | None) -> list[RowGroup]:
    """Cover all rows of the batch by groups. With a window, only pages that hold a visible key are named."""
    starts = batch.starts.astype(np.int64)
    counts = batch.num_tokens.astype(np.int64)
    first_pages = np.zeros_like(starts) if window is None else np.maximum(starts - window + 1, 0) // page_size
    num_pages = (starts + counts - 1) // page_size + 1 - first_pages
    groups = []
    for rows in _similar_rows(counts, num_pages):
        most = int(num_pages[rows].max())
        columns = np.arange(most)[None, :]
        columns = np.where(columns < num_pages[rows, None], columns, 0) + first_pages[rows, None]
        num_tokens = int(counts[rows[0]])
        tokens = (batch.offsets[rows].astype(np.int64)[:, None] + np.arange(num_tokens)).reshape(-1)
        pages = np.take_along_axis(batch.block_tables[rows].astype(np.int64), columns, axis=1)
        starts_in_pages = starts[rows] - first_pages[rows] * page_size
        blocks = _query_blocks(starts_in_pages, num_tokens, window)
        groups.append(RowGroup(tokens, len(rows), num_tokens, pages, blocks))

    return groups


def _similar_rows(counts: IndexArray, num_pages: IndexArray) -> list[IndexArray]:
    """Row indices, group by group, each in ascending order."""
    groups: list[list[int]] = []
    for row in np.lexsort((-num_pages, counts)).tolist():
        if groups and _fits(row, groups[-1][0], counts, num_pages):
            groups[-1].append(row)
            continue

        groups.append([row])

    return [np.sort(np.asarray(group)) for group in groups]


def _fits(row: int, longest: int, counts: IndexArray, num_pages: IndexArray) -> bool:
    if counts[row] != counts[longest] or counts[row] > MOST_SHARED_TOKENS:
        return False

    most = int(num_pages[longest])
    return bool(num_pages[row] >= min(LEAST_FILL * most, most - FREE_PAGES))


def _query_blocks(starts: IndexArray, num_tokens: int, window: int | None) -> list[QueryBlock]:
    """`starts`: for each row, which key of its pages is that of its first new token."""
    blocks = []
    for first in range(0, num_tokens, BLOCK_TOKENS):
        end = min(first + BLOCK_TOKENS, num_tokens)
        end_key = int(starts.max()) + end
        positions = starts[:, None] + np.arange(first, end)
        first_key = 0 if window is None else max(int(positions.min()) - window + 1, 0)
        seen_by_all = window is None or int(positions.max()) - window < first_key
        first_masked = int(positions.min()) + 1 if seen_by_all else first_key
        keys = np.arange(first_masked, end_key)
        hidden = keys > positions[:, :, None]
        if window is not None:
            hidden |= keys <= positions[:, :, None] - window
        blocks.append(QueryBlock(first, end, first_key, end_key, first_masked, hidden))

    return blocks
