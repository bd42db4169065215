"""Which queries of a step are attended together, and which pages each of these groups reads.

Rows with equally many new tokens and similarly many pages share one product; a much longer row gets a group of its
own, so that it doesn't make the others as long as itself. A row with many new tokens (a prefill chunk) is cut into
blocks of queries, each a group alone: pages behind a block are never read, those before a window neither, and
scores stay bounded. Pure numpy: nothing here depends on the layer, so it runs once per step and window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histrio.backend import StepBatch

__all__ = ["RowGroup", "group_rows"]

MOST_SHARED_TOKENS = 16
"""Rows with more new tokens than this are attended alone."""
BLOCK_TOKENS = 128
"""Queries of one block of such a row: less wastes products on hidden keys, more reads pages more often."""
LEAST_FILL = 0.7
"""A row joins a group when it has at least this share of the pages of the group's longest row…"""
FREE_PAGES = 4
"""…or lacks at most so many."""
BORDER_KEYS = 32
"""Masks begin at a multiple of so many keys."""

IndexArray = npt.NDArray[np.int64]


@dataclass(slots=True)
class RowGroup:
    """Equally many queries of one or more rows, which are attended in one product over whole pages."""

    rows: IndexArray
    """[rows] which rows of the step."""
    tokens: IndexArray
    """[rows * queries] which tokens of the step they are."""
    pages: IndexArray
    """[rows, pages] in order; a row with fewer repeats its first one."""
    num_pages: IndexArray
    """[rows] without the repeated ones."""
    first_masked: int
    """All queries see the keys before this one (counted from the first page's start); the others are in `hidden`."""
    hidden: npt.NDArray[np.bool_]
    """[rows, queries, keys - first_masked] true where a query must not see a key."""

    def widen(self, most_pages: int, page_size: int) -> None:
        """Repeat first pages up to `most_pages`; nobody sees the keys that this adds."""
        missing = most_pages - self.pages.shape[1]
        self.pages = np.concatenate([self.pages, np.repeat(self.pages[:, :1], missing, axis=1)], axis=1)
        added = np.ones((*self.hidden.shape[:2], missing * page_size), np.bool_)
        self.hidden = np.concatenate([self.hidden, added], axis=2)

    @property
    def num_rows(self) -> int:
        """How many rows take part."""
        return len(self.pages)

    @property
    def num_queries(self) -> int:
        """How many queries each row has."""
        return len(self.tokens) // len(self.pages)


@dataclass(slots=True)
class _Rows:
    """All rows of a step, or all blocks of them, one entry each."""

    table: IndexArray
    """Row of the block table."""
    token: IndexArray
    """First query, among the tokens of the step."""
    start: IndexArray
    """Position of the first query."""
    count: IndexArray
    first_page: IndexArray
    num_pages: IndexArray


def group_rows(batch: StepBatch, page_size: int, window: int | None) -> list[RowGroup]:
    """Cover all tokens of the batch by groups. With a window, only pages that hold a visible key are read."""
    rows = _blocks_of(batch, page_size, window)
    return [_make_group(batch, rows, members, page_size, window) for members in _similar_rows(rows)]


def _blocks_of(batch: StepBatch, page_size: int, window: int | None) -> _Rows:
    num_blocks = np.where(batch.num_tokens > MOST_SHARED_TOKENS, -(-batch.num_tokens // BLOCK_TOKENS), 1)
    table = np.repeat(np.arange(batch.num_rows), num_blocks)
    before = np.concatenate([np.arange(count) for count in num_blocks.tolist()]) * BLOCK_TOKENS
    count = np.minimum(batch.num_tokens[table] - before, np.where(num_blocks[table] > 1, BLOCK_TOKENS, 1 << 30))
    start = batch.starts[table] + before
    first_page = np.zeros_like(start) if window is None else np.maximum(start - window + 1, 0) // page_size
    num_pages = (start + count - 1) // page_size + 1 - first_page
    return _Rows(table, batch.offsets[table] + before, start, count, first_page, num_pages)


def _similar_rows(rows: _Rows) -> list[IndexArray]:
    """Indices of rows, group by group, each in ascending order."""
    groups: list[list[int]] = []
    for row in np.lexsort((-rows.num_pages, rows.count)).tolist():
        if groups and _fits(rows, row, groups[-1][0]):
            groups[-1].append(row)
            continue

        groups.append([row])

    return [np.sort(np.asarray(group)) for group in groups]


def _fits(rows: _Rows, row: int, longest: int) -> bool:
    if rows.count[row] != rows.count[longest] or rows.count[row] > MOST_SHARED_TOKENS:
        return False

    most = int(rows.num_pages[longest])
    return bool(rows.num_pages[row] >= min(LEAST_FILL * most, most - FREE_PAGES))


def _make_group(batch: StepBatch, rows: _Rows, members: IndexArray, page_size: int, window: int | None) -> RowGroup:
    num_queries, most_pages = int(rows.count[members[0]]), int(rows.num_pages[members].max())
    first_page = rows.first_page[members, None]
    columns = np.arange(most_pages)
    columns = np.where(columns < rows.num_pages[members, None], columns, 0) + first_page
    pages = batch.block_tables[rows.table[members, None], columns].astype(np.int64)
    tokens = (rows.token[members, None] + np.arange(num_queries)).reshape(-1)

    # Positions from here on count from the start of a row's first page.
    positions = rows.start[members, None] - first_page * page_size + np.arange(num_queries)
    seen_from_start = window is None or int(positions.max()) < window
    # An even border keeps the addition of the mask vectorised: 40 instead of 180 us for a block.
    first_masked = (int(positions.min()) + 1) // BORDER_KEYS * BORDER_KEYS if seen_from_start else 0
    keys = np.arange(first_masked, most_pages * page_size)
    hidden = keys > positions[:, :, None]
    if window is not None:
        hidden |= keys <= positions[:, :, None] - window

    return RowGroup(
        rows.table[members],
        tokens.astype(np.int64),
        pages,
        rows.num_pages[members].astype(np.int64),
        first_masked,
        hidden,
    )
