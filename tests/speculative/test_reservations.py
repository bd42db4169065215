"""Slots and blocks of a draft model: kept by sequences that are drafted for, lost by those that were not for long."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from histrio.messages import ReplicaSize
from histrio_speculative.reservations import _IDLE_ROUNDS, Reservations


def make_reservations(num_rows: int, num_blocks: int) -> tuple[Reservations, list[int]]:
    freed: list[int] = []
    size = ReplicaSize(num_blocks, 4, num_rows, 64, 64)
    return Reservations(size, freed.append), freed


def pass_rounds(reservations: Reservations, count: int, *requests: int) -> None:
    """So many rounds in which these requests are drafted for."""
    for _ in range(count):
        reservations.begin_round()
        for request in requests:
            assert reservations.reserve(request, 4) is not None


def test_the_longest_unused_reservation_is_lost_first() -> None:
    reservations, freed = make_reservations(2, 2)
    pass_rounds(reservations, 1, 1, 2)
    pass_rounds(reservations, _IDLE_ROUNDS, 1)
    pass_rounds(reservations, 1, 3)
    assert reservations.get(2) is None
    assert reservations.get(1) is not None, "a control: it was used later"
    assert len(freed) == 1


def test_what_was_drafted_for_lately_keeps_its_reservation() -> None:
    reservations, freed = make_reservations(2, 2)
    pass_rounds(reservations, _IDLE_ROUNDS, 1, 2)
    assert reservations.reserve(3, 4) is None
    assert reservations.get(1) is not None
    assert not freed
    pass_rounds(reservations, _IDLE_ROUNDS + 1)
    assert reservations.reserve(3, 4) is not None, "a control: later there is room"


def test_nothing_is_released_where_that_would_not_help() -> None:
    reservations, freed = make_reservations(4, 4)
    pass_rounds(reservations, 1, 1)
    pass_rounds(reservations, _IDLE_ROUNDS + 1, 2, 3)
    assert reservations.reserve(4, 12) is None, "two blocks are free or could be, and three are needed"
    assert not freed
    assert reservations.reserve(4, 8) is not None
    assert reservations.get(1) is None


def test_a_growing_sequence_is_given_only_what_it_lacks() -> None:
    reservations, _ = make_reservations(1, 4)
    reservations.begin_round()
    reservation = reservations.reserve(1, 5)
    assert reservation is not None
    first = reservation.take_new_blocks()
    assert len(first) == 2
    assert reservations.reserve(1, 8) is reservation
    assert reservation.take_new_blocks() == []
    assert reservations.reserve(1, 9) is reservation
    assert reservation.block_ids == first + reservation.take_new_blocks()
    assert len(reservation.block_ids) == 3


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), max_size=60))
def test_slots_and_blocks_are_neither_lost_nor_doubled(actions: list[tuple[int, int]]) -> None:
    reservations, _ = make_reservations(3, 8)
    for request, num_tokens in actions:
        reservations.begin_round()
        if num_tokens == 0:
            reservations.release(request)
            assert reservations.get(request) is None
        else:
            reservation = reservations.reserve(request, num_tokens)
            assert reservation is None or len(reservation.block_ids) * 4 >= num_tokens
        reservations.check_integrity()
