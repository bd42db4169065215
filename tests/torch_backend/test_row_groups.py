"""How the rows of a step are put together: every token once, every visible block read, and little else."""

from __future__ import annotations

import numpy as np
import pytest

from histrio_torch.row_groups import BLOCK_TOKENS, LEAST_FILL, RowGroup, Rows, make_group, similar_rows
from histrio_torch.testing.batches import make_batch

BLOCK_SIZE = 16


def rows_of(lengths: list[tuple[int, int]], window: int | None = None) -> Rows:
    """Rows of (start, new tokens); row r has the blocks 1000 r, 1000 r + 1, …"""
    rows = [
        (start, count, [1000 * row + block for block in range(-(-(start + count) // BLOCK_SIZE))])
        for row, (start, count) in enumerate(lengths)
    ]
    return Rows.of(make_batch(rows), BLOCK_SIZE, window)


def groups_of(lengths: list[tuple[int, int]], window: int | None = None) -> list[RowGroup]:
    rows = rows_of(lengths, window)
    return [make_group(rows, members) for members in similar_rows(rows)]


def kept_tokens(group: RowGroup) -> list[int]:
    """What all parts give together."""
    return [token for part in group.parts for token in part.tokens[~part.repeated].tolist()]


@pytest.mark.parametrize("window", [None, 20])
def test_every_token_is_in_one_group(window: int | None) -> None:
    lengths = [(5, 1), (0, 300), (90, 1), (40, 5), (7, 1), (41, 4), (500, 17)]
    tokens = [token for group in groups_of(lengths, window) for token in kept_tokens(group)]
    assert sorted(tokens) == list(range(sum(count for _, count in lengths)))


def test_rows_of_similar_length_share_a_group() -> None:
    (group,) = groups_of([(160 + row, 1) for row in range(8)])
    assert group.num_rows == 8
    assert [part.num_queries for part in group.parts] == [1]


def test_a_few_rows_with_drafts_attend_them_in_parts_over_the_same_blocks() -> None:
    lengths = [(160 + row, 5 if row in (3, 17, 18) else 1) for row in range(32)]
    (group,) = groups_of(lengths)
    assert [part.rows for part in group.parts] == [slice(0, 32), slice(3, 4), slice(17, 19)]
    assert [part.num_queries for part in group.parts] == [1, 4, 4]
    assert sorted(kept_tokens(group)) == list(range(32 + 3 * 4))


def test_many_rows_with_drafts_make_one_part_where_the_others_repeat_their_last_token() -> None:
    (group,) = groups_of([(160, 5), (170, 1), (165, 4), (166, 5)])
    (part,) = group.parts
    assert part.num_queries == 5
    assert part.tokens.reshape(4, 5)[1:3].tolist() == [[5, 5, 5, 5, 5], [6, 7, 8, 9, 9]]
    assert part.repeated.reshape(4, 5).sum(axis=1).tolist() == [0, 4, 1, 0]


def test_where_queries_cost_little_no_group_is_split() -> None:
    rows = rows_of([(160 + row, 5 if row == 3 else 1) for row in range(32)])
    (members,) = similar_rows(rows)
    assert len(make_group(rows, members, can_split=False).parts) == 1
    assert len(make_group(rows, members).parts) == 2


def test_a_much_longer_row_is_alone() -> None:
    groups = groups_of([(160, 1), (4000, 1), (170, 1)])
    assert sorted(group.rows.tolist() for group in groups) == [[0, 2], [1]]


def test_no_row_reads_much_more_than_its_own_blocks() -> None:
    lengths = [(int(length), 1) for length in np.random.default_rng(0).integers(1, 5000, 64)]
    for group in groups_of(lengths):
        assert (group.num_blocks >= np.minimum(LEAST_FILL * group.blocks.shape[1], group.blocks.shape[1] - 4)).all()


def test_prefill_blocks_read_no_blocks_behind_them() -> None:
    groups = groups_of([(0, 4 * BLOCK_TOKENS)])
    widths = sorted(group.blocks.shape[1] * BLOCK_SIZE for group in groups)
    assert widths == [BLOCK_TOKENS * block for block in range(1, 5)]


@pytest.mark.parametrize(("start", "first_block"), [(10, 0), (63, 0), (64, 0), (79, 1), (80, 1), (95, 2)])
def test_a_window_names_only_blocks_with_a_visible_key(start: int, first_block: int) -> None:
    (group,) = groups_of([(start, 1)], window=64)
    assert group.blocks[0].tolist() == list(range(first_block, start // BLOCK_SIZE + 1))


def test_hidden_keys_are_those_behind_the_query_and_before_the_window() -> None:
    (group,) = groups_of([(100, 2)], window=30)
    (part,) = group.parts
    first_key = int(group.blocks[0, 0]) * BLOCK_SIZE + part.first_masked
    visible = [(np.flatnonzero(~hidden) + first_key).tolist() for hidden in part.hidden[0]]
    assert visible == [list(range(71, 101)), list(range(72, 102))]


def test_a_wider_group_has_only_more_hidden_keys() -> None:
    rows = rows_of([(20, 1), (30, 1)])
    narrow, wide = (make_group(rows, np.arange(2), width) for width in (None, 5))
    before, after = narrow.parts[0].hidden, wide.parts[0].hidden
    assert wide.blocks.tolist() == [[0, 1, 0, 0, 0], [1000, 1001, 1000, 1000, 1000]]
    np.testing.assert_array_equal(after[..., : before.shape[-1]], before)
    assert after.shape[-1] == before.shape[-1] + 3 * BLOCK_SIZE
    assert after[..., before.shape[-1] :].all()
    assert not before.all()
