"""Answers of earlier requests: found by those of the same salt, and forgotten as wholes."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from histrio_speculative.answers import KEY_LENGTH, Answers

SALTS = ["", "one", "two"]
TEXT = st.lists(st.integers(0, 3), max_size=14)


@dataclass(frozen=True)
class Kept:
    salt: str
    ids: list[int]


def searched(kept: list[Kept], salt: str, tail: list[int]) -> int:
    """Length of the longest agreement with something behind it, by plain search; 0 below `KEY_LENGTH`."""
    longest = 0
    for answer in kept:
        if answer.salt != salt:
            continue
        for end in range(1, len(answer.ids)):
            for length in range(1, min(end, len(tail)) + 1):
                if answer.ids[end - length : end] == tail[-length:]:
                    longest = max(longest, length)
    return longest if longest >= KEY_LENGTH else 0


def follows(kept: list[Kept], salt: str, tail: list[int], length: int, rest: list[int]) -> bool:
    """Whether `rest` is what follows an agreement of that length in an answer of the salt."""
    whole = tail[len(tail) - length :] + rest
    return any(answer.salt == salt and answer.ids[-len(whole) :] == whole for answer in kept)


def remembered(told: list[Kept], max_tokens: int) -> list[Kept]:
    """What is to be left of these: each once, the latest of them, as many as fit."""
    kept: list[Kept] = []
    for answer in told:
        if KEY_LENGTH < len(answer.ids) <= max_tokens and answer not in kept:
            kept.append(answer)
        while sum(len(each.ids) for each in kept) > max_tokens:
            del kept[0]
    return kept


@settings(deadline=None)
@given(
    st.lists(st.builds(Kept, st.sampled_from(SALTS), TEXT), max_size=4),
    st.sampled_from(SALTS),
    TEXT,
    st.integers(1, 40),
)
def test_the_longest_agreement_is_found_as_by_a_search(
    told: list[Kept], salt: str, tail: list[int], max_tokens: int
) -> None:
    answers = Answers(max_tokens, max_looks=1000)
    for answer in told:
        answers.add(answer.salt, answer.ids)
    kept = remembered(told, max_tokens)
    assert answers.num_tokens == sum(len(each.ids) for each in kept) <= max_tokens
    occurrence = answers.find(salt, tail)
    assert (0 if occurrence is None else occurrence.length) == searched(kept, salt, tail)
    if occurrence is not None:
        assert follows(kept, salt, tail, occurrence.length, occurrence.ids[occurrence.end :].tolist())


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=8, max_size=30, unique=True), st.data())
def test_an_answer_is_found_from_any_place_in_it(ids: list[int], data: st.DataObject) -> None:
    answers = Answers(1000)
    answers.add("", ids)
    end = data.draw(st.integers(KEY_LENGTH, len(ids) - 1))
    occurrence = answers.find("", [7, *ids[:end]])
    assert occurrence is not None
    assert (occurrence.end, occurrence.length) == (end, end)
    assert answers.find("", [7, *ids]) is None, "a control: nothing follows its end"


def test_the_longer_agreement_wins_over_the_later_one_and_the_later_of_equal_ones() -> None:
    answers = Answers(1000)
    answers.add("", [1, 2, 3, 4, 50])
    answers.add("", [2, 3, 4, 60])
    answers.add("", [9, 2, 3, 4, 70])
    found = [answers.find("", [1, 2, 3, 4]), answers.find("", [2, 3, 4])]
    assert [occurrence.ids[occurrence.end] for occurrence in found if occurrence is not None] == [50, 70]


def test_no_salt_finds_the_answers_of_another() -> None:
    answers = Answers(1000)
    answers.add("mine", [1, 2, 3, 4, 5])
    assert answers.find("mine", [1, 2, 3]) is not None
    assert [answers.find(salt, [1, 2, 3]) for salt in ("", "yours", "min", "mine ")] == [None] * 4


@settings(deadline=None)
@given(st.text(min_size=1, max_size=3))
def test_no_salt_finds_the_answers_of_another_where_hashes_collide(salt: str) -> None:
    answers = Answers(6, max_looks=1000)
    answers.add(salt, [1, 2, 3, 4, 5, 6])
    assert answers.find(salt, [1, 2, 3]) is not None
    assert [answers.find(f"{salt}{index}", [1, 2, 3]) for index in range(32)] == [None] * 32


def test_the_oldest_answers_are_forgotten_as_wholes() -> None:
    answers = Answers(12)
    answers.add("", [1, 2, 3, 4, 5])
    answers.add("", [11, 12, 13, 14, 15])
    assert answers.find("", [1, 2, 3]) is not None
    answers.add("", [21, 22, 23, 24])
    assert (answers.find("", [1, 2, 3]), answers.num_tokens) == (None, 9)
    assert answers.find("", [11, 12, 13]) is not None


def test_what_is_said_again_is_kept_once_and_known_again_when_it_was_forgotten() -> None:
    answers = Answers(10)
    for _ in range(3):
        answers.add("", [1, 2, 3, 4])
    assert answers.num_tokens == 4
    answers.add("", list(range(20, 30)))
    assert answers.find("", [1, 2, 3]) is None
    answers.add("", [1, 2, 3, 4])
    assert answers.find("", [1, 2, 3]) is not None


def test_a_place_is_followed_as_long_as_its_tokens_come() -> None:
    answers = Answers(100)
    answers.add("", [1, 2, 3, 4, 5, 6])
    occurrence = answers.find("", [1, 2, 3])
    assert occurrence is not None
    assert occurrence.follow([4, 5])
    assert (occurrence.end, occurrence.length) == (5, 5)
    assert not occurrence.follow([7])
    assert not occurrence.follow([6, 7]), "beyond the end"


def test_nothing_is_remembered_without_room() -> None:
    answers = Answers(0)
    answers.add("", [1, 2, 3, 4, 5])
    assert (answers.num_tokens, answers.find("", [1, 2, 3])) == (0, None)
