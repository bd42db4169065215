"""Models that read whole texts, for vectors or scores: each text is what it is alone, and what transformers says."""

from __future__ import annotations

import numpy as np
import pytest

from histrio.contracts.backend import Capability
from histrio.testing.chain import ChainRow, Logits
from histrio.testing.conformance.compare import assert_differs, assert_same
from histrio.testing.conformance.reference import text_reference_for
from histrio.testing.conformance.subject import StageSubject, prompt

_LENGTHS = (37, 5, 16, 1, 60)


def read(reader: StageSubject, texts: list[list[int]], num_states: int | None = None) -> Logits:
    """[states, numbers] of texts that are read in one step: of all positions of each, or of so many at its end."""
    chain = reader.chain()
    rows = [ChainRow(slot, ids, 0, num_states or len(ids)) for slot, ids in enumerate(texts)]
    found = chain.finish(chain.start(rows)).states
    assert found is not None, "a row wants states, and none came"
    return found


def texts(reader: StageSubject, count: int) -> list[list[int]]:
    """Texts of different lengths, none of them in order of length."""
    return [prompt(reader.model.vocab_size, length, seed=length) for length in _LENGTHS[:count]]


def changed_at(ids: list[int], at: int) -> list[int]:
    """The text with another token there."""
    return [*ids[:at], 3 + (ids[at] - 2) % 200, *ids[at + 1 :]]


def test_texts_are_declared_as_whole(reader: StageSubject) -> None:
    assert Capability.WHOLE_TEXTS in reader.capabilities
    kind = Capability.SCORES if reader.model.kind == "score" else Capability.HIDDEN_STATES
    assert kind in reader.capabilities


def test_states_of_a_text_equal_the_reference(reader: StageSubject) -> None:
    judge = text_reference_for(reader.model)
    if isinstance(judge, str):
        pytest.skip(judge)
    for ids in texts(reader, 3):
        found = read(reader, [ids], 1 if reader.model.kind == "score" else None)
        assert_same(found, judge(ids), f"a text of {len(ids)} tokens")
        assert_differs(found, judge(changed_at(ids, 0)), "another first token")


def test_texts_of_one_step_equal_each_alone(reader: StageSubject) -> None:
    if Capability.BATCH not in reader.capabilities:
        pytest.skip("batch not declared")
    given = texts(reader, min(len(_LENGTHS), reader.num_rows))
    expected = np.concatenate([read(reader, [ids], 1) for ids in given])
    assert_same(read(reader, given, 1), expected, f"{len(given)} texts of {[len(ids) for ids in given]} tokens")
    assert_differs(read(reader, given, 1), np.roll(expected, 1, axis=0), "the order of texts")


def test_the_beginning_of_a_text_depends_on_its_end(reader: StageSubject) -> None:
    """What the capability is for: a stage that looked only back would give vectors of other models."""
    ids = texts(reader, 1)[0]
    found = read(reader, [ids])
    assert_same(read(reader, [ids]), found, "the same text again")
    assert_differs(read(reader, [changed_at(ids, len(ids) - 1)])[:1], found[:1], "another last token")


def test_texts_leave_nothing_behind(reader: StageSubject) -> None:
    ids, other, _ = texts(reader, 3)
    chain = reader.chain()
    for nth, each in enumerate((other, ids)):
        flight = chain.start([ChainRow(0, each, 0, 1)])
        found = chain.finish(flight).states
        chain.leave(0)
        if nth:
            assert_same(found, read(reader, [ids], 1), "a text after another in the same slot")
            assert_differs(found, read(reader, [other], 1), "the other text")
