"""Which queries of a step are attended together, and which blocks each of these groups reads.

Rows with similarly many blocks share one product; a much longer row gets a group of its own, so that it doesn't make
the others as long as itself. Where a few rows verify drafts, a first part of the group attends as many queries as most
of its rows have, and further parts, over the same keys, what the other rows have more. A row with many new tokens (a
prefill chunk) is cut into blocks of queries, each a group alone: blocks behind a block are never read, those before a
window neither, and scores stay bounded. Pure numpy: nothing here depends on the layer, so it runs once per step and
window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import StepBatch

__all__ = ["MOST_SHARED_TOKENS", "Part", "RowGroup", "Rows", "are_similar", "make_group", "similar_rows", "spans"]

MOST_SHARED_TOKENS = 16
"""Rows with more new tokens than this are attended alone."""
BLOCK_TOKENS = 128
"""Queries of one block of such a row: less wastes products on hidden keys, more reads blocks more often."""
LEAST_FILL = 0.7
"""A row joins a group when it has at least this share of the blocks of the group's longest row…"""
FREE_BLOCKS = 4
"""…or lacks at most so many."""
BORDER_KEYS = 32
"""Masks begin at a multiple of so many keys."""
PART_QUERIES = 8
"""A part more costs a CPU about as much as so many queries more in another."""

IndexArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Part:
    """Equally many queries of neighbouring rows of a group, which are attended in one product."""

    rows: slice
    """Which rows of the group."""
    tokens: IndexArray
    """[rows * queries] which tokens of the step they are; a row with fewer repeats its last one."""
    repeated: BoolArray
    """[rows * queries] true where a row repeats its last query: its result is not used."""
    first_masked: int
    """All queries see the keys before this one (counted from the first block's start); the others are in `hidden`."""
    hidden: BoolArray
    """[rows, queries, keys - first_masked] true where a query must not see a key."""

    @property
    def num_rows(self) -> int:
        """How many rows take part."""
        return len(self.hidden)

    @property
    def num_queries(self) -> int:
        """How many queries each row has."""
        return int(self.hidden.shape[1])


@dataclass(slots=True)
class RowGroup:
    """One or more rows whose blocks are read together."""

    rows: IndexArray
    """[rows] which rows of the step."""
    blocks: IndexArray
    """[rows, blocks] in order; a row with fewer repeats its first one."""
    num_blocks: IndexArray
    """[rows] without the repeated ones."""
    parts: list[Part]
    """Together they have all tokens of the rows once."""

    @property
    def num_rows(self) -> int:
        """How many rows take part."""
        return len(self.blocks)


@dataclass(frozen=True, slots=True)
class Rows:
    """All rows of a step, one entry each; of a row with many new tokens, one for each of its blocks."""

    batch: StepBatch
    block_size: int
    window: int | None
    table: IndexArray
    """Row of the block table."""
    token: IndexArray
    """First query, among the tokens of the step."""
    start: IndexArray
    """Position of the first query."""
    count: IndexArray
    first_block: IndexArray
    num_blocks: IndexArray

    @classmethod
    def of(cls, batch: StepBatch, block_size: int, window: int | None) -> Rows:
        """The rows of a step. With a window, only blocks that hold a visible key count."""
        num_blocks = np.where(batch.num_tokens > MOST_SHARED_TOKENS, -(-batch.num_tokens // BLOCK_TOKENS), 1)
        table = np.repeat(np.arange(batch.num_rows), num_blocks)
        before = np.concatenate([np.arange(count) for count in num_blocks.tolist()]) * BLOCK_TOKENS
        count = np.minimum(batch.num_tokens[table] - before, np.where(num_blocks[table] > 1, BLOCK_TOKENS, 1 << 30))
        start = batch.starts[table] + before
        first_block = np.zeros_like(start) if window is None else np.maximum(start - window + 1, 0) // block_size
        num_blocks = (start + count - 1) // block_size + 1 - first_block
        token = batch.offsets[table] + before
        return cls(batch, block_size, window, table, token, start, count, first_block, num_blocks)

    def blocks_of(self, members: IndexArray, width: int) -> IndexArray:
        """[members, width] blocks in order, then the first one again."""
        columns = np.arange(width)
        columns = np.where(columns < self.num_blocks[members, None], columns, 0) + self.first_block[members, None]
        return self.batch.block_tables[self.table[members, None], columns].astype(np.int64)


def make_group(rows: Rows, members: IndexArray, width: int | None = None, *, can_split: bool = True) -> RowGroup:
    """Read the members together, in their order; `width` blocks of each, by default as many as the longest has.

    Without `can_split` the group is one part, as suits a GPU: queries cost it little, calls much.
    """
    width = int(rows.num_blocks[members].max()) if width is None else width
    counts = rows.count[members]
    num_shared = _shared_queries(counts) if can_split else int(counts.max())
    parts = [_make_part(rows, members, slice(0, len(members)), range(num_shared), width)]
    for which in spans(counts > num_shared):
        further = range(num_shared, int(counts[which].max()))
        parts.append(_make_part(rows, members[which], which, further, width))

    return RowGroup(rows.table[members], rows.blocks_of(members, width), rows.num_blocks[members], parts)


def similar_rows(rows: Rows) -> list[IndexArray]:
    """Which entries of `rows` share a group, each group in ascending order."""
    groups: list[list[int]] = []
    for row in np.lexsort((-rows.num_blocks, rows.count > MOST_SHARED_TOKENS)).tolist():
        if groups and _can_join(rows, row, groups[-1][0]):
            groups[-1].append(row)
            continue

        groups.append([row])

    return [np.sort(np.asarray(group)) for group in groups]


def are_similar(num_blocks: int, most_blocks: int) -> bool:
    """Whether a row of `num_blocks` may be made as long as one of `most_blocks`."""
    return min(LEAST_FILL * most_blocks, most_blocks - FREE_BLOCKS) <= num_blocks <= most_blocks


def spans(flags: BoolArray) -> list[slice]:
    """Where neighbours are true."""
    if not flags.any():
        return []

    borders = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0)).tolist()
    return [slice(start, stop) for start, stop in zip(borders[::2], borders[1::2], strict=True)]


def _can_join(rows: Rows, row: int, longest: int) -> bool:
    is_short = max(rows.count[row], rows.count[longest]) <= MOST_SHARED_TOKENS
    return bool(is_short) and are_similar(int(rows.num_blocks[row]), int(rows.num_blocks[longest]))


def _shared_queries(counts: IndexArray) -> int:
    """How many queries of each row the first part has, so that all parts together cost the least."""
    choices = np.unique(counts)
    if len(choices) == 1:
        return int(choices[0])

    costs = [_cost(counts, num_shared) for num_shared in choices.tolist()]
    return int(choices[np.argmin(costs)])


def _cost(counts: IndexArray, num_shared: int) -> int:
    """The cost of all parts together, in queries."""
    further = [counts[which] - num_shared for which in spans(counts > num_shared)]
    return num_shared * len(counts) + sum(PART_QUERIES + len(each) * int(each.max()) for each in further)


def _make_part(rows: Rows, members: IndexArray, which: slice, queries: Sequence[int], width: int) -> Part:
    """The part with these queries of the members; a row's first query has number 0."""
    asked, last = np.asarray(queries), rows.count[members, None] - 1
    numbers = np.minimum(asked, last)
    # Positions count from the start of a row's first block.
    positions = rows.start[members, None] - rows.first_block[members, None] * rows.block_size + numbers
    seen_from_start = rows.window is None or int(positions.max()) < rows.window
    # An even border keeps the addition of the mask vectorised: 40 instead of 180 us for a block.
    first_masked = (int(positions.min()) + 1) // BORDER_KEYS * BORDER_KEYS if seen_from_start else 0
    keys = np.arange(first_masked, width * rows.block_size)
    hidden = keys > positions[:, :, None]
    if rows.window is not None:
        hidden |= keys <= positions[:, :, None] - rows.window

    tokens = (rows.token[members, None] + numbers).reshape(-1)
    return Part(which, tokens.astype(np.int64), (asked > last).reshape(-1), first_masked, hidden)
