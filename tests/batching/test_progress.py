"""Computed, planned and issued tokens of a sequence keep their order, and every method that would break it raises."""

from __future__ import annotations

import pytest

from histrio.batching.progress import Progress


def _numbers(progress: Progress) -> tuple[int, int, int, int]:
    return progress.computed, progress.planned, progress.issued, progress.num_in_flight


def test_a_prompt_in_two_chunks_and_a_row_with_rejected_drafts() -> None:
    progress = Progress()
    progress.begin_at(16)
    assert not progress.plan(32)
    progress.send()
    assert not progress.plan(40)
    progress.send()
    assert _numbers(progress) == (16, 40, 40, 2)
    progress.answer(32, is_verified=False)
    progress.answer(40, is_verified=False)
    assert not progress.plan(45, num_drafts=4)
    progress.send()
    assert _numbers(progress) == (40, 41, 45, 1)
    progress.answer(42, is_verified=True)
    assert _numbers(progress) == (42, 42, 45, 0)
    assert progress.plan(43), "the stages stand at 45, and the next row begins at 42"
    progress.send()
    progress.answer(43, is_verified=False)
    assert not progress.plan(44), "control: nothing was rejected since"


def test_what_cannot_be_is_asserted() -> None:
    progress = Progress()
    with pytest.raises(AssertionError, match="never sent"):
        progress.answer(0, is_verified=False)
    progress = Progress()
    progress.plan(4)
    progress.send()
    with pytest.raises(AssertionError, match="more tokens were answered"):
        progress.answer(5, is_verified=False)
    progress = Progress()
    progress.begin_at(8)
    with pytest.raises(AssertionError, match="behind tokens"):
        progress.plan(7)
