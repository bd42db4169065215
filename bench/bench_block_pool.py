"""What blocks cost: leasing them from kv's pool, taking one for a sequence, and the integrity check."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from histrio.engine.blocks import BlockLease, BlockPool

NUM_BLOCKS = 10_000


def test_lease_and_return_64_blocks(benchmark: BenchmarkFixture) -> None:
    pool = BlockPool(NUM_BLOCKS)

    benchmark(lambda: pool.give_back(pool.lease(64)))

    assert pool.num_free_blocks == NUM_BLOCKS
    pool.check_integrity()


@pytest.mark.parametrize("num_blocks", [1, 32])
def test_allocate_and_free(benchmark: BenchmarkFixture, num_blocks: int) -> None:
    lease = BlockLease()
    lease.add(list(range(NUM_BLOCKS)))

    def allocate_and_free() -> None:
        lease.free(lease.allocate(num_blocks))
        lease.reclaim()

    benchmark(allocate_and_free)

    assert lease.num_used_blocks == 0
    assert lease.num_blocks_in_hand == NUM_BLOCKS


def test_integrity_check_of_a_full_pool(benchmark: BenchmarkFixture) -> None:
    pool = BlockPool(NUM_BLOCKS)
    pool.lease(NUM_BLOCKS // 2)

    benchmark(pool.check_integrity)

    assert pool.num_leased_blocks == NUM_BLOCKS // 2
