"""Rows that keep their keys and values in order read the same as from their blocks, whatever happens in between."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from histrio_torch import blocks
from histrio_torch.attention import attend
from histrio_torch.blocks import LayerShape, PagedCache
from histrio_torch.residents import Arena, Residents
from histrio_torch.stores import Store
from histrio_torch.testing.batches import make_batch

BLOCK_SIZE = 4
SHAPE = LayerShape(num_kv_heads=2, key_dim=8, value_dim=8)


@dataclass
class Counted:
    """A store that counts what is read."""

    store: Store
    num_values: int = 0

    def write(self, rows: Tensor, new: Tensor) -> Tensor:
        return self.store.write(rows, new)

    def read(self, rows: Tensor, out: Tensor) -> None:
        self.num_values += out.numel()
        self.store.read(rows, out)


class Pair:
    """The same steps on a cache that keeps rows resident and on one that doesn't."""

    def __init__(self, num_layers: int = 2) -> None:
        self.caches = [PagedCache(dict.fromkeys(range(num_layers), SHAPE), torch.float32, "cpu") for _ in range(2)]
        for cache in self.caches:
            cache.allocate(128, BLOCK_SIZE)
        self.caches[1]._residents = None
        self.stores = [Counted(store) for store in self.caches[0]._keys.values()]
        self.caches[0]._keys = dict(enumerate(self.stores))
        self.generator = torch.Generator().manual_seed(0)

    @property
    def residents(self) -> Residents:
        """Of the first cache."""
        assert self.caches[0]._residents is not None
        return self.caches[0]._residents

    @property
    def num_copies(self) -> int:
        """Layers of sets that are kept in order."""
        return sum(len(known.copies) for known in self.residents._sets)

    def tokens_read(self) -> float:
        """How many tokens the first cache has read from blocks in each layer, since this was asked last."""
        counts = [store.num_values for store in self.stores]
        for store in self.stores:
            store.num_values = 0
        return sum(counts) / len(counts) / (SHAPE.num_kv_heads * SHAPE.key_dim)

    def step(self, *rows: tuple[int, int, list[int]]) -> float:
        """Run rows of (start, new tokens, blocks) on both; the largest difference between the two."""
        num_tokens = sum(count for _, count, _ in rows)
        query = torch.randn(num_tokens, 4, 8, generator=self.generator)
        key, value = torch.randn(2, num_tokens, 2, 8, generator=self.generator).unbind()
        for cache in self.caches:
            cache.begin(make_batch(rows))
        differences = [self._layer(layer, query + layer, key, value) for layer in self.caches[0].layers]
        return float(torch.stack(differences).max())

    def decode(self, first: int, end: int, *tables: list[int]) -> float:
        """Decode positions first … end-1 of one row per block table, which start `row` positions later each."""
        steps = [[(start + row, 1, table) for row, table in enumerate(tables)] for start in range(first, end)]
        return max(self.step(*rows) for rows in steps)

    def _layer(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        kept, gathered = (attend(cache, layer, query, key, value, scale=0.3) for cache in self.caches)
        return (kept - gathered).abs().max()


@pytest.fixture
def pair() -> Pair:
    """Two caches whose first two rows are prefilled with 5 and 6 tokens."""
    result = Pair()
    result.step((0, 5, FIRST), (0, 6, SECOND))
    return result


FIRST, SECOND, THIRD = [9, 3, 20, 1, 7, 8, 30, 31], [2, 11, 5, 40, 41, 42, 43, 44], [50, 51, 52, 53, 54, 55, 56]


def test_decoding_rows_become_resident_and_read_the_same(pair: Pair) -> None:
    assert pair.decode(5, 24, FIRST, SECOND) < 1e-6
    assert pair.num_copies == 2


def test_the_comparison_notices_a_wrong_copy(pair: Pair) -> None:
    pair.decode(5, 9, FIRST, SECOND)
    copies = pair.residents._sets[0].copies
    assert pair.decode(9, 10, FIRST, SECOND) < 1e-6
    copies[1].memory[:200] += 1
    assert pair.decode(10, 11, FIRST, SECOND) > 1e-3


def test_rows_that_go_on_read_no_blocks(pair: Pair) -> None:
    assert pair.tokens_read() > 0
    pair.decode(5, 11, FIRST, SECOND)
    assert pair.tokens_read() == 0


def test_joins_and_leaves_read_the_same(pair: Pair) -> None:
    pair.decode(5, 8, FIRST, SECOND)
    assert pair.step((8, 1, FIRST), (9, 1, SECOND), (0, 7, THIRD)) < 1e-6
    assert pair.decode(9, 12, FIRST, SECOND) < 1e-6
    assert pair.decode(12, 15, FIRST, SECOND, [60, 61, 62, 63, 59]) < 1e-6
    assert pair.decode(15, 18, FIRST) < 1e-6


def test_a_row_that_joins_or_takes_a_free_seat_is_all_that_is_read() -> None:
    pair, tables = Pair(), [list(range(8 * row, 8 * row + 8)) for row in range(6)]
    pair.step(*((0, 9 + row, table) for row, table in enumerate(tables[:4])))
    pair.decode(9, 11, *tables[:4])
    (known,) = pair.residents._sets
    row_tokens = known.capacity * BLOCK_SIZE
    assert pair.tokens_read() == 4 * row_tokens
    assert pair.step(*((11 + row, 1, table) for row, table in enumerate(tables[:4])), (0, 9, tables[4])) < 1e-6
    assert pair.tokens_read() == row_tokens
    assert pair.step(*((12 + row, 1, table) for row, table in enumerate(tables[:4]) if row != 1)) < 1e-6
    assert pair.tokens_read() == row_tokens
    for table in tables:
        pair.residents.forget(table)
    pair.step(*((12 + row, 1, table) for row, table in enumerate(tables[:4]) if row != 1))
    assert pair.tokens_read() >= 3 * row_tokens


def test_draft_rows_and_rewinds_stay_resident(pair: Pair) -> None:
    pair.decode(5, 14, FIRST, SECOND)
    pair.tokens_read()
    assert pair.step((14, 1, FIRST), (15, 5, SECOND)) < 1e-6
    assert pair.step((15, 4, FIRST), (16, 4, SECOND)) < 1e-6
    assert pair.step((16, 1, FIRST), (17, 1, SECOND)) < 1e-6
    assert pair.tokens_read() == 0
    pair.residents.forget(SECOND)
    assert pair.step((16, 1, FIRST), (17, 1, SECOND)) < 1e-6
    assert pair.tokens_read() > 0


def test_a_rewind_over_the_border_of_a_block_stays_resident(pair: Pair) -> None:
    pair.decode(5, 15, FIRST)
    pair.tokens_read()
    for start in (14, 15):
        assert pair.step((start, 5, FIRST)) < 1e-6
        assert pair.step((start + 1, 1, FIRST)) < 1e-6
    assert pair.tokens_read() == 0


def test_rows_may_change_seats(pair: Pair) -> None:
    pair.decode(5, 8, FIRST, SECOND)
    pair.tokens_read()
    assert pair.step((9, 1, SECOND), (8, 1, FIRST)) < 1e-6
    assert pair.step((10, 2, SECOND), (9, 1, FIRST)) < 1e-6
    assert pair.tokens_read() == 0


def test_blocks_that_another_row_has_written_are_read_anew(pair: Pair) -> None:
    pair.decode(5, 8, FIRST, SECOND)
    pair.tokens_read()
    assert pair.step((0, 7, FIRST)) < 1e-6
    assert pair.decode(8, 12, FIRST, SECOND) < 1e-6
    assert pair.tokens_read() > 0


def test_a_row_that_inherits_blocks_mid_step_is_read_anew(pair: Pair) -> None:
    pair.decode(5, 8, FIRST)
    pair.step((0, 7, [60, 61]), (0, 8, FIRST))
    assert pair.decode(8, 11, FIRST) < 1e-6


def test_copied_blocks_are_read_anew(pair: Pair) -> None:
    pair.decode(5, 8, FIRST)
    for cache in pair.caches:
        cache.copy([SECOND[0]], [FIRST[0]])
    assert pair.decode(8, 11, FIRST) < 1e-6


def test_rows_that_share_a_prefix_do_not_share_a_copy(pair: Pair) -> None:
    pair.decode(5, 8, FIRST)
    fork = [*FIRST[:2], 60, 61, 62]
    assert pair.step((8, 1, FIRST), (8, 2, fork)) < 1e-6
    for start in range(9, 13):
        assert pair.step((start, 1, FIRST), (start + 1, 2, fork)) < 1e-6


def test_sets_that_take_turns_all_stay_resident(pair: Pair) -> None:
    for start in range(5, 15):
        assert pair.step((start, 1, FIRST)) < 1e-6
        assert pair.step((start + 1, 1, SECOND)) < 1e-6
        if start == 12:
            pair.tokens_read()
    assert pair.tokens_read() == 0


def test_a_layer_that_missed_a_step_is_read_anew(pair: Pair) -> None:
    pair.decode(5, 8, FIRST)
    for cache in pair.caches:
        cache.begin(make_batch([(8, 1, FIRST)]))
        attend(cache, 0, torch.ones(1, 4, 8), torch.ones(1, 2, 8), torch.ones(1, 2, 8), scale=0.3)
        cache.write(1, torch.ones(1, 2, 8), torch.ones(1, 2, 8))
    assert pair.decode(9, 11, FIRST) < 1e-6


def test_rows_without_room_in_the_arena_are_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "RESIDENT_RATIO", 0.03)
    pair = Pair()
    pair.step((0, 5, FIRST), (0, 6, SECOND))
    assert pair.decode(5, 24, FIRST, SECOND) < 1e-6
    assert pair.num_copies <= 1


def test_sets_that_no_longer_run_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "RESIDENT_RATIO", 0.03)
    pair = Pair()
    pair.step((0, 5, FIRST), (0, 6, SECOND))
    pair.decode(5, 8, FIRST)
    assert pair.decode(6, 9, SECOND) < 1e-6
    (kept,) = (known for known in pair.residents._sets if known.copies)
    assert pair.residents._blocks[kept.first_seat].tolist()[:3] == SECOND[:3]


def test_an_arena_reuses_gaps_and_says_when_it_is_full() -> None:
    arena = Arena(100, torch.float32, torch.device("cpu"))
    first, second, third = (arena.take(size) for size in (40, 30, 30))
    assert first is not None
    assert second is not None
    assert third is not None
    assert arena.take(1) is None
    arena.give_back(second)
    assert arena.take(31) is None
    again = arena.take(30)
    assert again is not None
    assert again.data_ptr() == second.data_ptr()
    first.fill_(1)
    third.fill_(2)
    again.fill_(3)
    assert (float(first.sum()), float(third.sum())) == (40, 60)


def test_what_is_given_back_is_made_again() -> None:
    pair = Pair()
    rows = [[0, 1, 2], [3, 4, 5]]
    pair.step(*[(0, 6, blocks) for blocks in rows])
    for step in range(2):
        pair.step(*[(6 + step, 1, blocks) for blocks in rows])
    first = pair.residents
    assert pair.num_copies > 0
    pair.tokens_read()

    pair.caches[0].give_back()
    assert pair.residents is not first
    assert pair.num_copies == 0
    assert pair.step(*[(8, 1, blocks) for blocks in rows]) < 1e-5
    assert pair.tokens_read() > 0, "from the blocks"
    assert pair.step(*[(9, 1, blocks) for blocks in rows]) < 1e-5
    assert pair.tokens_read() == 0, "a control: from the copies"
