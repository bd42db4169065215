"""N-gram lookup: the longest tail that stood there before decides, and of several occurrences the latest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from histrio.messages import Generate
from histrio.plugins.registry import installed_plugins
from histrio_speculative.ngram import Ngram


def propose(ids: list[int], num_tokens: int) -> list[int]:
    return propose_with(opened(ids), num_tokens)


def opened(ids: list[int]) -> Ngram:
    drafter = Ngram()
    drafter.open(Generate(1, ids, len(ids), 1000), ids)
    return drafter


def propose_with(drafter: Ngram, num_tokens: int) -> list[int]:
    found = drafter.propose({1: num_tokens})
    return found[1].ids if found else []


def searched(ids: list[int], num_tokens: int) -> list[int]:
    """The same by plain search from the end."""
    for length in (4, 3, 2):
        for end in range(len(ids) - 1, length - 1, -1):
            if ids[end - length : end] == ids[-length:]:
                looped = list(ids)
                for _ in range(num_tokens):
                    looped.append(looped[len(looped) - (len(ids) - end)])
                return looped[len(ids) :]
    return []


def test_what_followed_before_is_proposed_again() -> None:
    assert propose([1, 2, 3, 4, 5, 9, 1, 2, 3], 3) == [4, 5, 9]
    assert propose([1, 2, 3, 4, 5, 9, 1, 7, 3], 3) == [], "a control: another tail"


def test_a_longer_match_wins_over_a_later_one() -> None:
    assert propose([1, 2, 3, 4, 50, 3, 4, 60, 1, 2, 3, 4], 1) == [50]


def test_the_latest_of_equal_matches_wins() -> None:
    assert propose([3, 4, 50, 3, 4, 60, 3, 4], 1) == [60]


def test_a_loop_is_continued_up_to_the_asked_length() -> None:
    assert propose([8, 1, 2, 1, 2], 5) == [1, 2, 1, 2, 1]


@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 2), max_size=10), st.integers(1, 6))
def test_it_equals_a_search_however_the_tokens_came(begun: list[int], later: list[int], num_tokens: int) -> None:
    drafter = opened(begun)
    for token in later:
        propose_with(drafter, 2)
        drafter.extend(1, [token])
    assert propose_with(drafter, num_tokens) == searched(begun + later, num_tokens)


def test_sequences_are_looked_up_in_themselves_only() -> None:
    drafter = opened([1, 2, 3, 4, 5, 1, 2, 3])
    drafter.open(Generate(2, [9, 1, 2, 3], 4, 1000), [9, 1, 2, 3])
    assert {request: draft.ids for request, draft in drafter.propose({1: 2, 2: 2}).items()} == {1: [4, 5]}
    drafter.close(1)
    assert drafter.propose({2: 2}) == {}


def test_it_is_registered_by_its_plugin() -> None:
    assert installed_plugins().drafters.get("ngram").name == "ngram"
