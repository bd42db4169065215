"""Rows are grouped without waste, find their tokens in their blocks, and nothing of anyone else's."""

from __future__ import annotations

import time
from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest

from histrio.contracts.backend import ReplicaSize, StepBatch
from histrio_mlx.blocks import CallContext, Pool, Span
from histrio_mlx.cache import StageCaches
from histrio_mlx.compat import KVCache
from histrio_mlx.groups import SHORT_TOKENS, Group, make_groups

BLOCK_SIZE, HEADS, WIDTH = 4, 3, 5


def make_batch(rows: Sequence[tuple[int, int]], block_size: int = BLOCK_SIZE) -> StepBatch:
    """Rows (tokens already there, new tokens), each with blocks of its own, dealt crosswise."""
    starts, counts = (np.array(column, np.int32) for column in zip(*rows, strict=True))
    most = int(-(-(starts + counts).max() // block_size))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return StepBatch(
        slots=np.arange(len(rows), dtype=np.int32),
        starts=starts,
        num_tokens=counts,
        num_sampled=np.ones(len(rows), np.int32),
        offsets=offsets,
        block_tables=np.arange(most * len(rows), dtype=np.int32).reshape(most, len(rows)).T.copy(),
        positions=np.zeros(int(offsets[-1]), np.int64),
        token_ids=None,
        hidden=[],
    )


def as_rows(groups: list[Group]) -> list[list[int]]:
    return [group.rows.tolist() for group in groups]


def test_rows_with_equally_many_tokens_share_a_call() -> None:
    groups = make_groups(make_batch([(9, 1), (0, 7), (3, 1), (0, 7), (200, 1), (5, 4)]), BLOCK_SIZE)
    assert sorted(as_rows(groups)) == [[0, 2, 4], [1, 3], [5]]
    assert sorted(np.concatenate([group.tokens for group in groups]).tolist()) == list(range(21))


def test_a_much_longer_row_goes_by_itself() -> None:
    lengths = [SHORT_TOKENS * 8, SHORT_TOKENS * 5, SHORT_TOKENS * 2, 1, SHORT_TOKENS]
    groups = make_groups(make_batch([(length, 1) for length in lengths]), BLOCK_SIZE)

    assert sorted(as_rows(groups)) == [[0, 1], [2, 4], [3]]
    for group in groups:
        padded = group.num_rows * group.tables.shape[1] * BLOCK_SIZE
        assert (
            padded <= max(2 * int((group.starts + 1).sum()), group.num_rows * (SHORT_TOKENS + BLOCK_SIZE)) + BLOCK_SIZE
        )


def test_a_family_that_takes_no_batch_gets_one_row_at_a_time() -> None:
    groups = make_groups(make_batch([(9, 1), (3, 1), (0, 4)]), BLOCK_SIZE, most_rows=1)
    assert sorted(as_rows(groups)) == [[0], [1], [2]]


@pytest.mark.parametrize("window", [None, 1, 6, 30])
@pytest.mark.parametrize("rows", [[(9, 1), (30, 1), (2, 1)], [(0, 6), (13, 6)], [(17, 3)]])
def test_attention_reads_what_was_written_and_no_more(rows: list[tuple[int, int]], window: int | None) -> None:
    batch = make_batch(rows)
    pool = Pool(HEADS, WIDTH, mx.float32)
    pool.allocate(int(batch.block_tables.max()) + 1, BLOCK_SIZE)
    pool.array = mx.full(pool.array.shape, 1e6)
    stored = [_fill(pool, batch, row) for row in range(len(rows))]
    group = make_groups(batch, BLOCK_SIZE)[0]
    span = Span(group, BLOCK_SIZE, window)
    read = np.array(pool.read(span))
    mask = np.array(span.mask(window, as_array=True)) if group.num_tokens > 1 or not span.is_even else None
    if mask is None:
        made = span.mask(window, as_array=True)
        mask = np.ones((1, read.shape[2]), bool) if made is None else np.array(made)
    mask = np.broadcast_to(mask if mask.ndim == 4 else mask[None, None], (len(rows), 1, group.num_tokens, span.size))

    for row, (start, count) in enumerate(rows):
        for token in range(count):
            seen = read[row][:, mask[row, 0, token]]
            last = start + token + 1
            first = 0 if window is None else max(last - window, 0)
            np.testing.assert_array_equal(seen, stored[row][:, first:last])


def _fill(pool: Pool, batch: StepBatch, row: int) -> npt.NDArray[np.float32]:
    """Write a row's tokens in two calls; returns them [heads, tokens, width]."""
    start, count = int(batch.starts[row]), int(batch.num_tokens[row])
    values = np.random.default_rng(row).normal(size=(HEADS, start + count, WIDTH)).astype(np.float32)
    for begin, end in ((0, start), (start, start + count)):
        if end > begin:
            one = Group(
                np.array([0]),
                np.array([row]),
                np.array([begin]),
                end - begin,
                batch.block_tables[row : row + 1],
                np.arange(end - begin),
                np.array([0]),
            )
            pool.write(CallContext(one, BLOCK_SIZE), mx.array(values[None, :, begin:end]))
    return values


def test_what_is_not_finite_stays_out_of_blocks() -> None:
    pool = Pool(1, 2, mx.float32)
    pool.allocate(1, BLOCK_SIZE)
    group = make_groups(make_batch([(0, 4)]), BLOCK_SIZE)[0]
    pool.write(CallContext(group, BLOCK_SIZE), mx.array([[[[1, mx.nan], [mx.inf, 2], [-mx.inf, 3], [4, 5]]]]))
    assert pool.array.tolist() == [[1, 0], [0, 2], [0, 3], [4, 5]]


@pytest.mark.alone
def test_writing_a_token_costs_the_same_in_a_larger_pool() -> None:
    costs = []
    for num_blocks in (256, 16_384):
        pool = Pool(8, 64, mx.float32)
        pool.allocate(num_blocks, 16)
        context = CallContext(make_groups(make_batch([(40, 1)] * 8, 16), 16)[0], 16)
        values = mx.ones((8, 8, 1, 64))
        costs.append(min(_cost(pool, context, values) for _ in range(20)))
        before = mx.get_peak_memory()
        assert before < 3 * pool.array.nbytes + 2**26, "no copy of the pool is made"

    assert costs[1] < 8 * costs[0] + 1e-3, "64 times the memory; a copy of it would take 64 times as long"


def _cost(pool: Pool, context: CallContext, values: mx.array) -> float:
    begin = time.process_time()
    pool.write(context, values)
    mx.eval(pool.array)
    return time.process_time() - begin


def test_pools_grow_with_the_blocks_in_use() -> None:
    cache = KVCache()
    cache.update_and_fetch(mx.ones((1, HEADS, 1, WIDTH)), mx.ones((1, HEADS, 1, WIDTH)))
    caches = StageCaches([cache], None)
    before = mx.get_active_memory()
    caches.allocate(ReplicaSize(100_000, 16, 8, 64, 64))
    first = mx.get_active_memory() - before
    caches.pools[0].array[7] = mx.full((WIDTH,), 5.0)
    caches.reserve(1000)
    grown = mx.get_active_memory() - before
    caches.reserve(999)

    assert caches.pools[0].array[7].tolist() == [5.0] * WIDTH, "what is there stays"
    assert mx.get_active_memory() - before == grown
    assert first < grown < 0.02 * 100_000 * 16 * caches.bytes_per_token
    with pytest.raises(AssertionError, match="block 100000"):
        caches.reserve(100_000)
    caches.free()
    assert mx.get_active_memory() - before < first
