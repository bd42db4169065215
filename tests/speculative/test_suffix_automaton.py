"""The automaton knows the longest suffix that occurred before, as a plain search does."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from histrio_speculative.automaton import Automaton


def automaton_of(ids: list[int]) -> Automaton:
    automaton = Automaton()
    automaton.extend(ids)
    return automaton


def searched(ids: list[int]) -> tuple[int, int]:
    """Length of the longest suffix that occurred before, and the index behind its latest earlier occurrence."""
    for length in range(len(ids) - 1, 0, -1):
        for end in range(len(ids) - 1, length - 1, -1):
            if ids[end - length : end] == ids[-length:]:
                return length, end
    return 0, 0


def found(automaton: Automaton) -> tuple[int, int]:
    return automaton.match_length, automaton.match_end if automaton.match_length else 0


@settings(deadline=None)
@given(st.integers(1, 4).flatmap(lambda most: st.lists(st.integers(0, most), max_size=32)))
def test_after_every_token_it_equals_a_search(ids: list[int]) -> None:
    automaton = Automaton()
    for index, token in enumerate(ids):
        automaton.extend([token])
        assert found(automaton) == searched(ids[: index + 1])


@settings(deadline=None)
@given(st.lists(st.integers(0, 1), min_size=40, max_size=160))
def test_a_long_loop_has_its_longest_match_where_one_stands(ids: list[int]) -> None:
    automaton = automaton_of(ids)
    length, end = found(automaton)
    assert length == searched(ids)[0]
    assert ids[end - length : end] == ids[len(ids) - length :]
    assert end < len(ids)


def test_the_search_of_these_tests_tells_lengths_and_occurrences_apart() -> None:
    assert searched([1, 2, 3, 1, 2]) == (2, 2)
    assert searched([1, 2, 1, 2, 1]) == (3, 3)
    assert searched([1, 2, 3]) == (0, 0)


def test_what_followed_is_continued_into_itself() -> None:
    assert automaton_of([5, 6, 7, 8, 5, 6]).continuation(2) == [7, 8]
    assert automaton_of([5, 6, 7, 8, 5, 6]).continuation(6) == [7, 8, 5, 6, 7, 8]
    assert automaton_of([5, 6, 7, 8]).continuation(3) == [], "a control: nothing occurred before"


def test_a_loop_takes_a_bounded_time_per_token() -> None:
    automaton = automaton_of([1] * 3000)
    assert (automaton.match_length, automaton.match_end) == (2999, 2999)
    assert automaton.continuation(3) == [1, 1, 1]
