"""The lease: what batching has in hand, and what it tells kv."""

from __future__ import annotations

import pytest

from histrio.engine.blocks import BlockLease
from histrio.messages import Release


def test_a_lease_keeps_used_and_released_apart() -> None:
    lease = BlockLease()
    lease.add([4, 5, 6])
    table = lease.allocate(2)
    lease.check_integrity([table])
    lease.release(1, table)
    lease.check_integrity([])
    assert lease.take_releases() == [Release(1, [4, 5])]
    assert lease.take_releases() == []
    assert lease.num_blocks_in_hand == 1


def test_blocks_that_kv_shares_are_in_tables_but_not_on_lease() -> None:
    lease = BlockLease()
    lease.add([1, 2])
    lease.check_integrity([[8, 9, *lease.allocate(1)], [8, 9]])
    assert lease.num_used_blocks == 1


def test_integrity_fails_when_a_used_block_is_in_no_table() -> None:
    lease = BlockLease()
    lease.add([1, 2])
    table = lease.allocate(1)
    lease.check_integrity([table])
    with pytest.raises(AssertionError, match="in no table"):
        lease.check_integrity([])
    with pytest.raises(AssertionError, match="in a table twice"):
        lease.check_integrity([table * 2])


def test_a_release_ends_exhaustion() -> None:
    lease = BlockLease()
    lease.is_exhausted = True
    lease.release(1, [])
    assert not lease.is_exhausted


def test_what_is_given_up_is_no_longer_in_hand() -> None:
    lease = BlockLease()
    lease.add([3, 4])
    assert sorted(lease.give_up()) == [3, 4]
    assert not lease.can_allocate(1)
