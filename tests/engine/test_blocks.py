"""Every block is in exactly one place, whatever happens."""

from __future__ import annotations

import pytest

from histrio.engine.blocks import BlockLease, BlockPool


def test_a_pool_grants_no_more_than_it_has() -> None:
    pool = BlockPool(4)
    assert pool.lease(3) == [0, 1, 2]
    assert pool.lease(3) == [3]
    assert pool.lease(1) == []
    pool.check_integrity()


def test_the_last_block_returned_is_the_first_leased_again() -> None:
    pool = BlockPool(3)
    pool.lease(2)
    pool.give_back([1, 0])
    assert pool.lease(3) == [0, 1, 2]


def test_returning_a_block_twice_is_an_error() -> None:
    pool = BlockPool(2)
    pool.lease(1)
    pool.give_back([0])
    with pytest.raises(KeyError):
        pool.give_back([0])


def test_integrity_fails_when_a_block_is_lost() -> None:
    pool = BlockPool(2)
    pool._free.pop()
    with pytest.raises(AssertionError, match="lost"):
        pool.check_integrity()


def test_a_lease_keeps_used_and_returned_apart() -> None:
    lease = BlockLease()
    lease.add([4, 5, 6])
    table = lease.allocate(2)
    lease.check_integrity([table])
    lease.free(table)
    lease.check_integrity([])
    assert lease.take_returned() == [4, 5]
    assert lease.take_returned() == []
    assert lease.num_blocks_in_hand == 1


def test_lease_integrity_fails_when_two_tables_share_a_block() -> None:
    lease = BlockLease()
    lease.add([1, 2])
    table = lease.allocate(1)
    with pytest.raises(AssertionError, match="two tables"):
        lease.check_integrity([table, table])


def test_freeing_ends_exhaustion() -> None:
    lease = BlockLease()
    lease.add([1])
    lease.is_exhausted = True
    lease.free(lease.allocate(1))
    assert not lease.is_exhausted
