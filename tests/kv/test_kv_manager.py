"""Kv: blocks are shared by what they hold, found again when no request reads them, and computed once."""

from __future__ import annotations

import pytest

from histrio.kv.manager import KvManager
from histrio.messages import Matched

SIZE = 4


def fill(kv: KvManager, request: int, ids: list[int], salt: str = "") -> list[int]:
    """A request computes all of `ids` by itself; its table, beginning with what was shared."""
    (matched,) = kv.match(request, ids, salt)
    num_known = len(matched.block_ids)
    num_full = len(ids) // SIZE
    table = matched.block_ids + kv.lease(-(-len(ids) // SIZE) - num_known)
    kv.seal(request, table[num_known:num_full], ids[num_known * SIZE : num_full * SIZE])
    kv.check_integrity()
    return table


def manager(num_blocks: int = 16) -> KvManager:
    return KvManager(num_blocks, SIZE)


def test_an_equal_prefix_is_shared_while_the_other_still_reads_it() -> None:
    kv = manager()
    first = fill(kv, 1, [1, 2, 3, 4, 5, 6, 7, 8, 9])
    second = fill(kv, 2, [1, 2, 3, 4, 5, 6, 7, 8, 10, 11])
    assert second[:2] == first[:2]
    assert second[2] != first[2]


def test_a_prefix_is_found_again_after_its_reader_left() -> None:
    kv = manager()
    first = fill(kv, 1, [1, 2, 3, 4, 5, 6, 7, 8, 9])
    kv.release(1, first)
    assert kv.num_cached_blocks == 2
    assert kv.match(2, [1, 2, 3, 4, 5, 6, 7, 8, 9]) == [Matched(2, first[:2])]
    assert kv.match(3, [0, 2, 3, 4, 5, 6, 7, 8, 9]) == [Matched(3, [])], "a control: another first token, nothing"


def test_a_block_depends_on_everything_before_it() -> None:
    kv = manager()
    fill(kv, 1, [1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert kv.match(2, [9, 9, 9, 9, 5, 6, 7, 8, 9]) == [Matched(2, [])]


def test_one_token_is_left_to_compute() -> None:
    kv = manager()
    first = fill(kv, 1, [1, 2, 3, 4, 5, 6, 7, 8])
    assert kv.match(2, [1, 2, 3, 4, 5, 6, 7, 8]) == [Matched(2, first[:1])]
    assert kv.match(3, [1, 2, 3, 4, 5, 6, 7, 8, 9]) == [Matched(3, first[:2])]


def test_another_salt_shares_nothing() -> None:
    kv = manager()
    first = fill(kv, 1, [1, 2, 3, 4, 5], salt="mine")
    assert kv.match(2, [1, 2, 3, 4, 5], "yours") == [Matched(2, [])]
    assert kv.match(3, [1, 2, 3, 4, 5], "mine") == [Matched(3, first[:1])]


def test_what_one_computes_the_others_wait_for() -> None:
    kv = manager()
    ids = list(range(1, 10))
    assert kv.match(1, ids) == [Matched(1, [])]
    assert kv.match(2, ids) == []
    assert kv.match(3, [*ids[:4], 99, 98]) == []
    blocks = kv.lease(3)
    assert kv.seal(1, blocks[:1], ids[:4]) == [Matched(3, blocks[:1])], "2 needs the next block as well"
    assert kv.seal(1, blocks[1:2], ids[4:8]) == [Matched(2, blocks[:2])]
    kv.check_integrity()


def test_if_the_request_that_computes_leaves_another_takes_over() -> None:
    kv = manager()
    ids = list(range(1, 10))
    kv.match(1, ids)
    assert kv.match(2, ids) == []
    assert kv.match(3, ids) == []
    assert kv.release(1, []) == [Matched(2, [])], "3 goes on waiting, for 2"
    assert kv.release(2, []) == [Matched(3, [])]
    kv.check_integrity()


def test_a_request_that_left_gets_no_answer_any_more() -> None:
    kv = manager()
    ids = list(range(1, 10))
    kv.match(1, ids)
    assert kv.match(2, ids) == []
    kv.release(2, [])
    assert kv.release(1, []) == []
    kv.check_integrity()


def test_the_tail_of_a_prefix_is_evicted_first() -> None:
    kv = manager(4)
    ids = list(range(1, 14))
    table = fill(kv, 1, ids)
    kv.release(1, table)
    kv.lease(2)
    assert kv.num_evictions == 1, "one block was free"
    assert kv.match(2, ids) == [Matched(2, table[:2])]


def test_the_least_recently_used_prefix_is_evicted_first() -> None:
    kv = manager(5)
    old, new = [1, 2, 3, 4, 5], [6, 7, 8, 9, 10]
    first, second = fill(kv, 1, old), fill(kv, 2, new)
    kv.release(1, first)
    kv.release(2, second)
    kv.release(3, kv.match(3, old)[0].block_ids)
    kv.lease(4)
    assert kv.match(4, old) == [Matched(4, first[:1])]
    assert kv.match(5, new) == [Matched(5, [])]


def test_what_a_request_reads_is_never_evicted() -> None:
    kv = manager(3)
    fill(kv, 1, list(range(1, 10)))
    assert kv.lease(1) == []


def test_a_block_computed_twice_has_one_name() -> None:
    kv = manager()
    ids = [1, 2, 3, 4, 5, 6]
    assert kv.match(1, ids) == [Matched(1, [])]
    assert kv.match(2, [1, 2, 3, 4]) == [Matched(2, [])], "it has to compute its last token, so it cannot wait"
    (mine,), (other,) = kv.lease(1), kv.lease(1)
    kv.seal(1, [mine], ids[:4])
    kv.seal(2, [other], ids[:4])
    kv.check_integrity()
    kv.release(2, [other])
    assert kv.num_cached_blocks == 0
    assert kv.num_free_blocks == 15


def test_generated_tokens_are_found_too() -> None:
    kv = manager()
    table = fill(kv, 1, [1, 2, 3])
    kv.seal(1, table, [1, 2, 3, 7])
    assert kv.match(2, [1, 2, 3, 7, 8]) == [Matched(2, table)]


def test_a_reset_forgets_what_is_not_read() -> None:
    kv = manager()
    kept = fill(kv, 1, [1, 2, 3, 4, 5])
    kv.release(2, fill(kv, 2, [5, 6, 7, 8, 9]))
    assert kv.reset() == 1
    kv.check_integrity()
    assert kv.match(3, [5, 6, 7, 8, 9]) == [Matched(3, [])]
    assert kv.match(4, [1, 2, 3, 4, 5]) == [Matched(4, kept[:1])]


def test_without_the_cache_nothing_is_named() -> None:
    kv = KvManager(8, SIZE, has_prefix_cache=False)
    assert kv.match(1, [1, 2, 3, 4, 5]) == [Matched(1, [])]
    blocks = kv.lease(2)
    assert kv.seal(1, blocks[:1], [1, 2, 3, 4]) == []
    kv.release(1, blocks)
    assert kv.num_free_blocks == 8
    assert kv.match(2, [1, 2, 3, 4, 5]) == [Matched(2, [])]


def test_integrity_fails_when_a_block_is_lost() -> None:
    kv = manager(2)
    kv._free.pop()
    with pytest.raises(AssertionError, match="lost"):
        kv.check_integrity()


def test_a_block_is_not_returned_twice() -> None:
    kv = manager(2)
    kv.lease(1)
    kv.give_back([0])
    with pytest.raises(KeyError):
        kv.give_back([0])
