"""Pools of blocks that hold keys and values, and which of their tokens a call of the model reads and writes.

A pool is one flat array [blocks * heads * block_size, width]; each block has its heads one after the other. So one
gather gives attention what it wants, [rows, heads, tokens, width] in one piece, and writing a step's tokens is one
scatter, which MLX does in place: nothing else holds the array when it runs.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from histrio_mlx.groups import Group

__all__ = ["CallContext", "Pool", "Span"]

Ints = npt.NDArray[np.int64]


class Pool:
    """Keys, or values, of one layer: [blocks * heads * block_size, width]."""

    def __init__(self, heads: int, width: int, dtype: mx.Dtype) -> None:
        self.heads, self.width, self.dtype = heads, width, dtype
        self.array = mx.zeros((0, width), dtype)
        self._block_size = 1

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token takes in the pool."""
        return self.heads * self.width * self.dtype.size

    def allocate(self, num_blocks: int, block_size: int) -> None:
        """Make room for these blocks and forget all others."""
        self._block_size = block_size
        self.array = mx.zeros((num_blocks * self.heads * block_size, self.width), self.dtype)
        mx.eval(self.array)

    def grow(self, num_blocks: int) -> None:
        """Make room for so many blocks; keeps what is there."""
        missing = num_blocks * self.heads * self._block_size - self.array.shape[0]
        self.array = mx.concatenate([self.array, mx.zeros((missing, self.width), self.dtype)])
        mx.eval(self.array)

    def write(self, context: CallContext, values: mx.array) -> None:
        """Put the new tokens' [rows, heads, tokens, width] into their blocks."""
        # What is not finite would reach rows that have such a block later: zero times NaN is NaN, behind every mask.
        finite = mx.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
        self.array[context.cells(self.heads)] = finite.astype(self.dtype)

    def read(self, span: Span) -> mx.array:
        """[rows, heads, tokens of the span, width]"""
        blocks = self.array.reshape(-1, self._block_size * self.width)
        found = mx.take(blocks, span.blocks(self.heads), axis=0)
        rows, heads, _, _ = found.shape
        return found.reshape(rows, heads, -1, self.width)[:, :, : span.size]

    def copy(self, src: list[int], dst: list[int]) -> None:
        """Copy blocks."""
        blocks = self.array.reshape(-1, self.heads * self._block_size * self.width)
        copied = mx.take(blocks, mx.array(src, mx.int32), axis=0)
        firsts = np.asarray(dst, np.int64)[:, None] * self.heads * self._block_size
        rows = (firsts + np.arange(self.heads * self._block_size)).reshape(-1)
        self.array[_indices(rows)] = copied.reshape(-1, self.width)


class Span:
    """The stored tokens that a group's rows may attend to: of each row, `size` positions from its base on.

    With a sliding window the base is the last block border before the window of the row's first new token.
    """

    def __init__(self, group: Group, block_size: int, window: int | None) -> None:
        firsts = np.zeros_like(group.starts)
        if window is not None:
            firsts = np.maximum(group.starts - window + 1, 0) // block_size
        self._relative = group.starts - firsts * block_size
        self._num_tokens = group.num_tokens
        self.size = int(self._relative.max()) + group.num_tokens
        columns = firsts[:, None] + np.arange(-(-self.size // block_size))
        # Blocks beyond a row's own are any block: what they hold is masked.
        self._blocks = np.take_along_axis(group.tables, np.minimum(columns, group.tables.shape[1] - 1), 1)
        self._masks: dict[tuple[int | None, bool], Any] = {}
        self._indices: dict[int, mx.array] = {}

    @cached_property
    def is_even(self) -> bool:
        """Whether all rows are equally long, so that one mask does for all."""
        return bool((self._relative == self._relative[0]).all())

    def blocks(self, heads: int) -> mx.array:
        """[rows, heads, blocks] which rows of a pool [blocks * heads, block_size * width] to read."""
        if heads not in self._indices:
            index = self._blocks[:, None, :].astype(np.int64) * heads + np.arange(heads)[:, None]
            self._indices[heads] = _indices(index)
        return self._indices[heads]

    def mask(self, window: int | None, as_array: bool) -> Any:
        """What mlx-lm's caches answer: None, "causal", or a bool array [tokens, size] or [rows, 1, tokens, size]."""
        if window is not None and int(self._relative.max()) + self._num_tokens <= window:
            window = None
        if window is None and self.is_even and (self._num_tokens == 1 or not as_array):
            return None if self._num_tokens == 1 else "causal"

        key = (window, self.is_even)
        if key not in self._masks:
            self._masks[key] = self._make_mask(window)
        return self._masks[key]

    def _make_mask(self, window: int | None) -> mx.array:
        relative = self._relative[:1] if self.is_even else self._relative
        queries = (mx.array(relative.astype(np.int32))[:, None] + mx.arange(self._num_tokens))[..., None]
        keys = mx.arange(self.size)
        mask = keys <= queries
        if window is not None:
            mask = mask & (keys > queries - window)
        return mask[0] if self.is_even else mask[:, None]


class CallContext:
    """What all caches of one call of the model share: its rows, and where their tokens are in the pools."""

    def __init__(self, group: Group, block_size: int) -> None:
        self.group = group
        self._block_size = block_size
        self._spans: dict[int | None, Span] = {}
        self._cells: dict[int, mx.array] = {}

    @cached_property
    def is_fresh(self) -> bool:
        """Whether no row has anything in its blocks."""
        return not self.group.starts.any()

    @cached_property
    def offset(self) -> int | mx.array:
        """Position of the rows' first new token: a number where it's the same for all, else [rows]."""
        starts = self.group.starts
        return int(starts[0]) if (starts == starts[0]).all() else mx.array(starts.astype(np.int32))

    def span(self, window: int | None) -> Span:
        """The tokens that attention with this window reads."""
        if window not in self._spans:
            self._spans[window] = Span(self.group, self._block_size, window)
        return self._spans[window]

    def cells(self, heads: int) -> mx.array:
        """[rows, heads, tokens] where a pool holds the new tokens."""
        if heads not in self._cells:
            positions = self.group.starts[:, None] + np.arange(self.group.num_tokens)
            blocks = np.take_along_axis(self.group.tables, positions // self._block_size, 1).astype(np.int64)
            by_head = blocks[:, None, :] * heads + np.arange(heads)[:, None]
            self._cells[heads] = _indices(by_head * self._block_size + positions[:, None, :] % self._block_size)
        return self._cells[heads]


def _indices(values: Ints) -> mx.array:
    """Indices on the device; 32 bits wide where they fit."""
    return mx.array(values.astype(np.int32) if values.size == 0 or values.max() < 2**31 else values)
