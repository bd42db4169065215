"""From commands that count from 0 to batches with the stage's own ids."""

from __future__ import annotations

import pytest

from histrio.messages import Row, Step
from histrio.stage.slots import SlotTable


def step(*rows: Row) -> Step:
    return Step(1, 1, list(rows), list(range(sum(row.num_tokens for row in rows))))


def test_rows_become_flat_arrays() -> None:
    table = SlotTable(4, 3)
    table.open(2)
    table.open(0)
    batch = table.batch(step(Row(2, 0, 3, 0, [7]), Row(0, 0, 5, 1, [4, 1])))
    assert batch.slots.tolist() == [2, 0]
    assert batch.positions.tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    assert batch.block_tables.tolist() == [[7, 0], [4, 1]]
    assert batch.offsets.tolist() == [0, 3, 8]


def test_a_stage_gets_its_own_first_ids() -> None:
    table = SlotTable(4, 3, first_slot=1, first_block_id=10)
    table.open(2)
    table.open(0)
    batch = table.batch(step(Row(2, 0, 3, 0, [7]), Row(0, 0, 5, 1, [4, 1])))
    assert batch.slots.tolist() == [3, 1]
    assert batch.block_tables.tolist() == [[17, 10], [14, 11]]


def test_scored_positions_are_computed_along_with_the_sampled_ones() -> None:
    table = SlotTable(3, 3)
    for slot in range(3):
        table.open(slot)
    batch = table.batch(step(Row(0, 0, 4, 0, [0], num_scored=4), Row(1, 0, 3, 1, [1], num_scored=2), Row(2, 0, 5, 1)))
    assert batch.num_sampled.tolist() == [4, 3, 1]


def test_the_second_text_of_a_pair_has_a_type_of_its_own_in_every_chunk() -> None:
    table = SlotTable(2, 3)
    table.open(0, second_at=4)
    table.open(1)
    one = table.batch(step(Row(0, 0, 3, 0, [0]), Row(1, 0, 2, 0, [1])))
    two = table.batch(step(Row(0, 3, 3, 0), Row(1, 2, 1, 0)))
    assert one.token_types is not None
    assert two.token_types is not None
    assert one.token_types.tolist() == [0, 0, 0, 0, 0]
    assert two.token_types.tolist() == [0, 1, 1, 0]
    assert two.row(0).token_types is not None
    table.open(0)
    assert table.batch(step(Row(0, 0, 3, 0, [0]))).token_types is None, "the next sequence is no pair"


def test_drift_is_caught_and_a_rewind_is_not_drift() -> None:
    table = SlotTable(1, 3)
    table.open(0)
    table.batch(step(Row(0, 0, 5, 1, [0, 1])))
    with pytest.raises(AssertionError, match=r"slots \[0\] are at \[5\], the plan says \[3\]"):
        table.batch(step(Row(0, 3, 1, 1)))

    batch = table.batch(step(Row(0, 3, 1, 1, rewind=True)))
    assert batch.starts.tolist() == [3]
    assert table.lengths.tolist() == [4]


def test_of_several_rows_those_that_have_drifted_are_named() -> None:
    table = SlotTable(3, 3)
    for slot in range(3):
        table.open(slot)
    table.batch(step(Row(0, 0, 5, 1, [0, 1]), Row(1, 0, 5, 1, [2, 3]), Row(2, 0, 5, 1, [4, 5])))
    with pytest.raises(AssertionError, match=r"slots \[1\] are at \[5\], the plan says \[4\]"):
        table.batch(step(Row(0, 5, 1, 1), Row(1, 4, 1, 1), Row(2, 2, 1, 1, rewind=True)))

    table.batch(step(Row(0, 5, 1, 1), Row(1, 4, 1, 1, rewind=True), Row(2, 2, 1, 1, rewind=True)))
    assert table.lengths.tolist() == [6, 5, 3]


def test_a_rewind_leads_backwards_only() -> None:
    table = SlotTable(1, 3)
    table.open(0)
    table.batch(step(Row(0, 0, 5, 1, [0, 1])))
    with pytest.raises(AssertionError, match=r"slots \[0\] are at \[5\], the plan says \[6\]"):
        table.batch(step(Row(0, 6, 1, 1, rewind=True)))
