"""Rows of a step, divided into dense calls of the model.

Rows with equally many new tokens form one call [rows, tokens], so no call has padding among its tokens. What such rows
have in their blocks may differ in length: shorter rows are padded to the longest, and masked. Padding costs memory and
time, so a row less than half as long as the longest one goes into another call.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import StepBatch

__all__ = ["Group", "make_groups"]

Ints = npt.NDArray[np.int64]

SHORT_TOKENS = 256
"""Rows up to this length always share a call: one call more costs more than their padding."""


@dataclass(frozen=True)
class Group:
    """Rows that the model computes in one call."""

    rows: Ints
    """[rows] their indices among the step's rows."""
    slots: Ints
    """[rows]"""
    starts: Ints
    """[rows] tokens that each has in its blocks."""
    num_tokens: int
    """New tokens of every row."""
    tables: npt.NDArray[np.int32]
    """[rows, blocks of the longest]"""
    tokens: Ints
    """[rows * num_tokens] where they are among the step's tokens."""
    num_sampled: Ints
    """[rows]"""

    @property
    def num_rows(self) -> int:
        """How many sequences take part."""
        return len(self.slots)

    @property
    def sampled(self) -> Ints:
        """Indices `row * num_tokens + token` of the tokens that are sampled, in ascending order."""
        ends = (np.arange(self.num_rows) + 1) * self.num_tokens
        return np.concatenate([np.arange(end - count, end) for end, count in zip(ends, self.num_sampled, strict=True)])


def make_groups(batch: StepBatch, block_size: int, most_rows: int | None = None) -> list[Group]:
    """All rows of `batch`, each in one group of at most `most_rows`."""
    lengths = batch.starts.astype(np.int64) + batch.num_tokens
    groups: list[list[int]] = []
    for row in sorted(range(batch.num_rows), key=lambda row: (batch.num_tokens[row], -lengths[row], row)):
        if not groups or not _fits(groups[-1], row, batch.num_tokens, lengths) or len(groups[-1]) == most_rows:
            groups.append([])
        groups[-1].append(row)
    return [_make(batch, np.array(sorted(rows)), lengths, block_size) for rows in groups]


def _fits(group: list[int], row: int, num_tokens: npt.NDArray[np.int32], lengths: Ints) -> bool:
    longest = lengths[group[0]]
    return bool(num_tokens[group[0]] == num_tokens[row] and longest <= max(2 * lengths[row], SHORT_TOKENS))


def _make(batch: StepBatch, rows: Ints, lengths: Ints, block_size: int) -> Group:
    num_tokens = int(batch.num_tokens[rows[0]])
    num_blocks = -(-int(lengths[rows].max()) // block_size)
    return Group(
        rows=rows,
        slots=batch.slots[rows].astype(np.int64),
        starts=batch.starts[rows].astype(np.int64),
        num_tokens=num_tokens,
        tables=batch.block_tables[rows, :num_blocks],
        tokens=(batch.offsets[rows].astype(np.int64)[:, None] + np.arange(num_tokens)).reshape(-1),
        num_sampled=batch.num_sampled[rows].astype(np.int64),
    )
