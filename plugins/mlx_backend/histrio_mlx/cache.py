"""What the model's layers get as their caches: views of the pools for one call, with the behaviour of mlx-lm's caches.

Sliding layers live in blocks like all others and see their window through the mask, so they can be rewound. Layers with
a recurrent state (`ArraysCache`) keep one row of state per slot. An entry that no layer of this stage uses still
answers what models ask of any cache: offset and mask.
"""

from __future__ import annotations

from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from histrio.contracts.backend import ReplicaSize
from histrio.errors import UnsupportedModel
from histrio_mlx.blocks import CallContext, Pool
from histrio_mlx.compat import ArraysCache, CacheList, ChunkedKVCache, ConcatenateKVCache, KVCache, RotatingKVCache

__all__ = ["StageCaches", "has_windows"]


_FIRST_TOKENS = 4096
"""Tokens in the pools before they grow."""


class _Entry(Protocol):
    """One item of the list that the model's `make_cache` makes."""

    @property
    def pools(self) -> list[Pool]:
        """The pools of its keys and values."""

    @property
    def states(self) -> list[_StateRows]:
        """Its recurrent states, by slot."""

    def view(self, context: CallContext) -> Any:
        """The cache object for one call."""

    def commit(self, context: CallContext, view: Any) -> None:
        """Keep what the call left in the view beside what it wrote into pools."""


class StageCaches:
    """All caches of one stage; one entry for each of the model's, whether this stage uses it or not."""

    def __init__(self, used: list[Any], window: int | None) -> None:
        """`used` are mlx-lm's own caches after one token; `window` holds for layers that have none of their own."""
        self._entries = [_make_entry(cache, window) for cache in used]
        self.pools = [pool for entry in self._entries for pool in entry.pools]
        self._states = [state for entry in self._entries for state in entry.states]
        self._block_size = 1
        self._num_blocks = 0
        """Blocks that the pools have now."""
        self._size: ReplicaSize | None = None

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token takes in the blocks of all layers."""
        return sum(pool.bytes_per_token for pool in self.pools)

    @property
    def bytes_per_slot(self) -> int:
        """Bytes that all recurrent states of one slot take."""
        return sum(state.bytes_per_slot for state in self._states)

    @property
    def arrays(self) -> list[mx.array]:
        """All memory, to be evaluated after a step."""
        return [pool.array for pool in self.pools] + [array for state in self._states for array in state.arrays]

    def allocate(self, size: ReplicaSize) -> None:
        """Make the rows of states, and pools that grow with use up to their size; the same sizes again keep them."""
        if self._size is not None and _sizes(self._size) == _sizes(size):
            return

        self.free()
        self._size, self._block_size = size, size.block_size
        self._num_blocks = min(size.num_blocks, -(-_FIRST_TOKENS // size.block_size))
        for pool in self.pools:
            pool.allocate(self._num_blocks, size.block_size)
        for state in self._states:
            state.allocate(size.max_slots)
        mx.eval(self.arrays)

    def free(self) -> None:
        """Give the memory back."""
        self._size = None
        for pool in self.pools:
            pool.allocate(0, self._block_size)
        for state in self._states:
            state.allocate(0)
        mx.clear_cache()

    def reserve(self, last_block: int) -> None:
        """Grow the pools until they have this block."""
        if last_block < self._num_blocks:
            return

        assert self._size is not None, "allocate() comes before reserve()"
        assert last_block < self._size.num_blocks, f"block {last_block} of {self._size.num_blocks}"
        # MLX fills what it allocates, so a pool of full size would take its memory at once, and seconds to get it.
        self._num_blocks = min(max(2 * self._num_blocks, last_block + 1), self._size.num_blocks)
        for pool in self.pools:
            pool.grow(self._num_blocks)
        mx.clear_cache()

    def views(self, context: CallContext) -> list[Any]:
        """The caches for one call of the model."""
        return [entry.view(context) for entry in self._entries]

    def commit(self, context: CallContext, views: list[Any]) -> None:
        """Keep the states that the call left behind."""
        for entry, view in zip(self._entries, views, strict=True):
            entry.commit(context, view)

    def copy(self, src: list[int], dst: list[int]) -> None:
        """Copy blocks in all layers."""
        self.reserve(max([*src, *dst], default=0))
        for pool in self.pools:
            pool.copy(src, dst)
        mx.eval(self.arrays)


class PagedView:
    """Stands for a `KVCache`, `RotatingKVCache` or `ChunkedKVCache` during one call."""

    start_position = 0
    """What the first fetched key's position is, for models that make the mask of their chunks themselves."""

    def __init__(self, context: CallContext, pools: list[Pool], window: int | None) -> None:
        self._context, self._pools = context, pools
        self.max_size = window
        self.offset = context.offset
        self.keys: mx.array | None = None
        self.values: mx.array | None = None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write the new tokens [rows, heads, tokens, width] into blocks; all that attention reads, oldest first."""
        new = [keys, values]
        for pool, part in zip(self._pools, new, strict=True):
            pool.write(self._context, part)
        self.offset = self.offset + self._context.group.num_tokens
        if not self._context.is_fresh:
            new = [pool.read(self._context.span(self.max_size)) for pool in self._pools]
        self.keys, self.values = new
        return new[0], new[1]

    def maybe_trim_front(self) -> None:
        """Nothing is dropped: blocks keep what is behind a chunk's border."""

    def keys_and_values(self) -> tuple[mx.array | None, mx.array | None]:
        """What was fetched last, for layers that read another layer's."""
        return self.keys, self.values

    def make_mask(self, num_tokens: int, return_array: bool = False, window_size: int | None = None) -> Any:
        """As mlx-lm's caches do; `window_size` may narrow the view's own window."""
        assert num_tokens == self._context.group.num_tokens, "a model asks for the mask of the call's own tokens"
        windows = [window for window in (self.max_size, window_size) if window is not None]
        return self._context.span(self.max_size).mask(min(windows, default=None), return_array)


class _StateRows:
    """One array of a recurrent state, a row per slot."""

    def __init__(self, example: mx.array) -> None:
        self._shape, self._dtype = tuple(example.shape[1:]), example.dtype
        self.arrays: list[mx.array] = []

    @property
    def bytes_per_slot(self) -> int:
        """Bytes that the state of one slot takes."""
        return int(np.prod(self._shape)) * int(self._dtype.size)

    def allocate(self, num_rows: int) -> None:
        """Rows for that many slots; lazily."""
        self.arrays = [mx.zeros((num_rows, *self._shape), self._dtype)]

    def load(self, context: CallContext) -> mx.array | None:
        """[rows, …]; None where all rows are new sequences, as mlx-lm begins, and zeros for new ones among others."""
        if context.is_fresh:
            return None

        starts = context.group.starts
        rows = mx.take(self.arrays[0], _slots(context), axis=0)
        if starts.all():
            return rows

        is_new = mx.array(starts == 0).reshape(-1, *[1] * len(self._shape))
        return mx.where(is_new, mx.zeros_like(rows), rows)

    def save(self, context: CallContext, state: mx.array) -> None:
        """Keep the rows' states."""
        self.arrays[0][_slots(context)] = state.astype(self._dtype)


class _KvEntry:
    def __init__(self, cache: Any, window: int | None) -> None:
        self.pools: list[Pool] = []
        self.states: list[_StateRows] = []
        self._window = window
        if cache.keys is not None:
            self.pools = [Pool(part.shape[1], part.shape[3], part.dtype) for part in (cache.keys, cache.values)]

    def view(self, context: CallContext) -> PagedView:
        return PagedView(context, self.pools, self._window)

    def commit(self, context: CallContext, view: Any) -> None:
        """Pools were written already."""


class _StateEntry:
    def __init__(self, cache: Any) -> None:
        self.pools: list[Pool] = []
        self._rows = [None if array is None else _StateRows(array) for array in cache.cache]

    @property
    def states(self) -> list[_StateRows]:
        return [rows for rows in self._rows if rows is not None]

    def view(self, context: CallContext) -> Any:
        cache = ArraysCache(len(self._rows))
        for index, rows in enumerate(self._rows):
            if rows is not None:
                cache[index] = rows.load(context)
        return cache

    def commit(self, context: CallContext, view: Any) -> None:
        for index, rows in enumerate(self._rows):
            if rows is not None:
                rows.save(context, view[index])


class _ListEntry:
    def __init__(self, entries: list[_Entry]) -> None:
        self._entries = entries

    @property
    def pools(self) -> list[Pool]:
        return [pool for entry in self._entries for pool in entry.pools]

    @property
    def states(self) -> list[_StateRows]:
        return [state for entry in self._entries for state in entry.states]

    def view(self, context: CallContext) -> Any:
        return CacheList(*(entry.view(context) for entry in self._entries))

    def commit(self, context: CallContext, view: Any) -> None:
        for entry, part in zip(self._entries, view.caches, strict=True):
            entry.commit(context, part)


def has_windows(cache: Any) -> bool:
    """Whether one of mlx-lm's own caches brings a sliding window."""
    if type(cache) is CacheList:
        return any(has_windows(part) for part in cache.caches)

    return type(cache) is RotatingKVCache


def _make_entry(cache: Any, window: int | None) -> _Entry:
    if type(cache) in (KVCache, ConcatenateKVCache, ChunkedKVCache):
        return _KvEntry(cache, window)

    if type(cache) is RotatingKVCache and not cache.keep:
        return _KvEntry(cache, cache.max_size)

    if type(cache) is ArraysCache:
        return _StateEntry(cache)

    if type(cache) is CacheList:
        return _ListEntry([_make_entry(part, window) for part in cache.caches])

    raise UnsupportedModel(f"its layers keep a {type(cache).__name__}, which blocks and rows of states can't hold")


def _slots(context: CallContext) -> mx.array:
    return mx.array(context.group.slots.astype(np.int32))


def _sizes(size: ReplicaSize) -> tuple[int, int, int]:
    return size.num_blocks, size.block_size, size.max_slots
