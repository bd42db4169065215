"""Slots and blocks of a draft model: kept by those who are drafted for, lost by those who were not for a while."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from histrio.messages import ReplicaSize
from histrio_speculative.places import _IDLE_ROUNDS, Places


def make_places(num_rows: int, num_blocks: int) -> tuple[Places, list[int]]:
    freed: list[int] = []
    size = ReplicaSize(num_blocks, 4, num_rows, 64, 64)
    return Places(size, freed.append), freed


def pass_rounds(places: Places, count: int, *requests: int) -> None:
    """So many rounds in which these requests are drafted for."""
    for _ in range(count):
        places.begin_round()
        for request in requests:
            assert places.reserve(request, 4) is not None


def test_the_longest_unused_place_is_lost_first() -> None:
    places, freed = make_places(2, 2)
    pass_rounds(places, 1, 1, 2)
    pass_rounds(places, _IDLE_ROUNDS, 1)
    pass_rounds(places, 1, 3)
    assert places.get(2) is None
    assert places.get(1) is not None, "a control: it was used later"
    assert len(freed) == 1


def test_who_was_drafted_for_lately_keeps_its_place() -> None:
    places, freed = make_places(2, 2)
    pass_rounds(places, _IDLE_ROUNDS, 1, 2)
    assert places.reserve(3, 4) is None
    assert places.get(1) is not None
    assert not freed
    pass_rounds(places, _IDLE_ROUNDS + 1)
    assert places.reserve(3, 4) is not None, "a control: later there is room"


def test_nobody_loses_a_place_where_that_would_not_help() -> None:
    places, freed = make_places(4, 4)
    pass_rounds(places, 1, 1)
    pass_rounds(places, _IDLE_ROUNDS + 1, 2, 3)
    assert places.reserve(4, 12) is None, "two blocks are free or could be, and three are expected"
    assert not freed
    assert places.reserve(4, 8) is not None
    assert places.get(1) is None


def test_a_growing_sequence_is_given_only_what_it_lacks() -> None:
    places, _ = make_places(1, 4)
    places.begin_round()
    place = places.reserve(1, 5)
    assert place is not None
    first = place.take_new_blocks()
    assert len(first) == 2
    assert places.reserve(1, 8) is place
    assert place.take_new_blocks() == []
    assert places.reserve(1, 9) is place
    assert place.block_ids == first + place.take_new_blocks()
    assert len(place.block_ids) == 3


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), max_size=60))
def test_slots_and_blocks_are_neither_lost_nor_doubled(actions: list[tuple[int, int]]) -> None:
    places, _ = make_places(3, 8)
    for request, num_tokens in actions:
        places.begin_round()
        if num_tokens == 0:
            places.give_up(request)
            assert places.get(request) is None
        else:
            place = places.reserve(request, num_tokens)
            assert place is None or len(place.block_ids) * 4 >= num_tokens
        places.check_integrity()
