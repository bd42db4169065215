"""The lease: what batching has in hand, and what it tells kv."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from histrio.batching.lease import BlockLease
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


class LeaseHistory(RuleBasedStateMachine):
    """Batching takes blocks for sequences, shares others, and gives all back; the naive book has one list per owner."""

    def __init__(self) -> None:
        super().__init__()
        self.lease = BlockLease()
        self.hand: list[int] = []
        self.taken: dict[int, list[int]] = {}
        """Request → blocks from the lease."""
        self.shared: dict[int, list[int]] = {}
        """Request → blocks that kv shares with it."""
        self.told: list[Release] = []
        self.num_blocks = 0
        self.num_left = 0

    def fresh(self, count: int) -> list[int]:
        self.num_blocks += count
        return list(range(self.num_blocks - count, self.num_blocks))

    @rule(count=st.integers(0, 4), num_left=st.integers(0, 9))
    def kv_grants(self, count: int, num_left: int) -> None:
        granted = self.fresh(count)
        self.lease.add(granted, num_left)
        self.hand += granted
        self.num_left = num_left

    @rule(request=st.integers(1, 4), count=st.integers(1, 3))
    def a_sequence_takes(self, request: int, count: int) -> None:
        """In the order in which they were granted."""
        assert self.lease.can_allocate(count) == (len(self.hand) >= count)
        if not self.lease.can_allocate(count):
            return

        assert self.lease.allocate(count) == self.hand[:count]
        self.taken.setdefault(request, []).extend(self.hand[:count])
        del self.hand[:count]

    @rule(request=st.integers(1, 4), count=st.integers(1, 3))
    def kv_shares(self, request: int, count: int) -> None:
        if request not in self.taken and request not in self.shared:
            self.shared[request] = self.fresh(count)

    @precondition(lambda self: self.taken or self.shared)
    @rule(data=st.data())
    def a_sequence_leaves(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(sorted({*self.taken, *self.shared})))
        table = self.shared.pop(request, []) + self.taken.pop(request, [])
        self.lease.release(request, table)
        self.told.append(Release(request, table))
        self.num_left += len(table)
        assert not self.lease.is_exhausted

    @rule()
    def batching_tells_kv(self) -> None:
        assert self.lease.take_releases() == self.told
        self.told = []

    @rule()
    def nothing_runs(self) -> None:
        assert sorted(self.lease.give_up()) == sorted(self.hand)
        self.num_left += len(self.hand)
        self.hand = []

    @invariant()
    def the_books_agree(self) -> None:
        tables = [self.shared.get(request, []) + self.taken.get(request, []) for request in range(1, 5)]
        self.lease.check_integrity(tables)
        assert self.lease.num_blocks_in_hand == len(self.hand)
        assert self.lease.num_used_blocks == sum(map(len, self.taken.values()))
        assert self.lease.num_blocks_left == self.num_left


def run_histories(phases: Sequence[Phase] = tuple(Phase)) -> None:
    chosen = settings(max_examples=60, stateful_step_count=20, deadline=None, derandomize=True, phases=phases)
    run_state_machine_as_test(LeaseHistory, settings=chosen)


def test_a_lease_does_what_a_naive_book_says() -> None:
    run_histories()


@pytest.mark.parametrize("broken", ["allocate", "give_up"])
def test_the_naive_book_sees_a_lease_that_forgets(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = getattr(BlockLease, broken)
    monkeypatch.setattr(BlockLease, broken, lambda self, *given: method(self, *given)[1:])
    with pytest.raises(AssertionError):
        run_histories([Phase.generate])
