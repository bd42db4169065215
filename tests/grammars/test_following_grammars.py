"""Drafts, rollbacks, replays and jumps: whatever way a matcher came to a place, it stands there as a fresh one does."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from histrio.messages import GrammarSpec
from histrio_grammars.testing import RandomWriter

EOS = 257
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "kind": {"enum": ["circle", "square"]},
            "sizes": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
            "name": {"type": "string", "maxLength": 5},
        },
        "required": ["kind", "sizes", "name"],
        "additionalProperties": False,
    }
)


@pytest.fixture(scope="module")
def answers(toy: Any) -> list[list[int]]:
    writer = RandomWriter(toy.vocabulary, toy.spec.vocab_size, [EOS], seed=5)
    found = [writer.write(GrammarSpec("json_schema", SCHEMA), 500) for _ in range(6)]
    assert all(is_whole for _, is_whole in found)
    return [[*ids, EOS] for ids, _ in found]


def test_masks_after_drafts_are_the_masks_of_a_matcher_that_took_them(toy: Any, answers: list[list[int]]) -> None:
    random = Random(1)
    num_compared = 0
    for ids in answers:
        start = random.randrange(len(ids))
        drafts = ids[start : start + 6]
        matcher = toy.matcher("json_schema", SCHEMA, ids[:start])
        rows = toy.allowed(matcher, drafts)
        for taken in range(len(drafts) + 1):
            if EOS in drafts[:taken]:
                continue
            assert rows[taken] == toy.allowed(toy.matcher("json_schema", SCHEMA, ids[: start + taken]))[0]
            num_compared += 1
        assert rows[0] == toy.allowed(matcher)[0], "the drafts did not move it"
    assert num_compared > len(answers)


def test_rows_behind_a_wrong_draft_stay_as_they_were(toy: Any) -> None:
    matcher = toy.matcher("regex", "abcd")
    a, b, x = toy.ids("abx")
    rows = toy.allowed(matcher, [a, x, b])
    assert rows[:2] == [{a}, {b}]
    assert all(len(row) > 290 for row in rows[2:])
    assert not matcher.error


def test_after_a_rollback_a_matcher_equals_a_fresh_one(toy: Any, answers: list[list[int]]) -> None:
    random = Random(2)
    for ids in answers:
        at = random.randrange(len(ids) - 1)
        matcher = toy.vocabulary.matcher(GrammarSpec("json_schema", SCHEMA))
        assert matcher.advance(ids[:at])
        for num_tokens in (1, 3, len(ids) - at):
            ahead = ids[at : at + num_tokens]
            assert matcher.advance(ahead)
            assert matcher.is_finished == (EOS in ahead)
            matcher.rollback(len(ahead))
            fresh = toy.matcher("json_schema", SCHEMA, ids[:at])
            assert toy.allowed(matcher) == toy.allowed(fresh)
            assert not matcher.is_finished
        assert matcher.advance(ids[at:])
        assert matcher.is_finished
    other = toy.matcher("json_schema", SCHEMA, answers[0][:1])
    assert toy.allowed(other) != toy.allowed(toy.matcher("json_schema", SCHEMA)), "a control: places differ"


def test_a_replayed_matcher_goes_on_where_the_lost_one_was(toy: Any, answers: list[list[int]]) -> None:
    for ids in answers:
        lost = toy.vocabulary.matcher(GrammarSpec("json_schema", SCHEMA))
        for at, token in enumerate(ids):
            if at % 7 == 0:
                replayed = toy.vocabulary.matcher(GrammarSpec("json_schema", SCHEMA))
                assert replayed.advance(ids[:at])
                assert toy.allowed(replayed) == toy.allowed(lost)
                assert replayed.forced(50) == lost.forced(50)
            assert lost.advance([token])


def test_forced_tokens_are_those_that_any_answer_goes_on_with(toy: Any, answers: list[list[int]]) -> None:
    num_jumps = 0
    for ids in answers:
        for at in range(len(ids)):
            matcher = toy.matcher("json_schema", SCHEMA, ids[:at])
            forced = matcher.forced(50)
            assert forced == ids[at : at + len(forced)]
            assert matcher.forced(2) == forced[:2]
            num_jumps += len(forced) > 1
            allowed = toy.allowed(matcher)[0]
            assert (len(allowed) == 1) == bool(forced)
    assert num_jumps > len(answers)


def test_the_end_is_forced_where_nothing_else_may_come(toy: Any) -> None:
    ids = toy.ids("yes")
    assert toy.matcher("choice", '["yes"]').forced(10) == [*ids, EOS]
    assert toy.matcher("choice", '["yes","yesterday"]').forced(10) == ids


def test_without_a_mask_the_same_writer_breaks_the_grammar(toy: Any, answers: list[list[int]]) -> None:
    writer = RandomWriter(toy.vocabulary, toy.spec.vocab_size, [EOS], seed=5, is_masked=False)
    ids, _ = writer.write(GrammarSpec("json_schema", SCHEMA), 50)
    matcher = toy.vocabulary.matcher(GrammarSpec("json_schema", SCHEMA))
    assert not matcher.advance([token for token in ids if token < EOS])
    assert all(toy.vocabulary.matcher(GrammarSpec("json_schema", SCHEMA)).advance(ids) for ids in answers)


def test_two_matchers_of_one_grammar_stand_where_they_stand(toy: Any, answers: list[list[int]]) -> None:
    first = toy.matcher("json_schema", SCHEMA, answers[0][:9])
    second = toy.matcher("json_schema", SCHEMA)
    assert toy.allowed(second)[0] != toy.allowed(first)[0]
    assert second.advance(answers[1])
    assert first.advance(answers[0][9:])
    assert toy.allowed(toy.matcher("json_schema", SCHEMA)) == toy.allowed(toy.matcher("json_schema", SCHEMA))
