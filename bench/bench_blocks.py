"""What blocks cost: leasing them from kv, taking some for a sequence, and the integrity check."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from histrio.batching.lease import BlockLease
from histrio.kv.manager import KvManager

NUM_BLOCKS = 10_000


def test_lease_and_return_64_blocks(benchmark: BenchmarkFixture) -> None:
    manager = KvManager(NUM_BLOCKS)

    benchmark(lambda: manager.give_back(manager.lease(64)))

    assert manager.num_free_blocks == NUM_BLOCKS
    manager.check_integrity()


@pytest.mark.parametrize("num_blocks", [1, 32])
def test_allocate_and_release(benchmark: BenchmarkFixture, num_blocks: int) -> None:
    lease = BlockLease()
    lease.add(list(range(NUM_BLOCKS)))

    def allocate_and_release() -> None:
        lease.release(1, lease.allocate(num_blocks))
        for release in lease.take_releases():
            lease.add(release.block_ids)

    benchmark(allocate_and_release)

    assert lease.num_used_blocks == 0
    assert lease.num_blocks_in_hand == NUM_BLOCKS


def test_integrity_check_of_many_blocks(benchmark: BenchmarkFixture) -> None:
    manager = KvManager(NUM_BLOCKS)
    manager.lease(NUM_BLOCKS // 2)

    benchmark(manager.check_integrity)

    assert manager.num_free_blocks == NUM_BLOCKS // 2
