"""Random histories of the block manager against a naive rewrite without hashes: a prefix is the tokens themselves.

`HISTRIO_HISTORIES=10000` plays that many histories in index of 300.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from histrio.kv import manager as kv_manager
from histrio.kv.manager import KvManager
from histrio.messages import Matched

SIZE, NUM_BLOCKS = 2, 14
NUM_HISTORIES = int(os.environ.get("HISTRIO_HISTORIES", "300"))
Prefix = tuple[str, tuple[int, ...]]
"""A salt and all tokens up to the end of a block."""


@dataclass
class Asker:
    """A request as the naive book has it."""

    ids: list[int]
    """Everything known of it, prompt and generated."""
    salt: str
    table: list[int] = field(default_factory=list)
    num_sealed: int = 0
    is_answered: bool = False

    def prefix(self, num_blocks: int) -> Prefix:
        return self.salt, tuple(self.ids[: num_blocks * SIZE])


class NaiveKv:
    """What the manager does, by searching through lists."""

    def __init__(self) -> None:
        self.free = set(range(NUM_BLOCKS))
        self.leased: set[int] = set()
        self.contents: dict[int, Prefix] = {}
        self.readers: Counter[int] = Counter()
        self.cached: list[int] = []
        """Named blocks without reader, the one to be evicted next first."""
        self.announced: list[tuple[Prefix, int]] = []
        """Prefixes that are being computed, and by whom."""
        self.waiting: list[tuple[Prefix, int]] = []
        self.askers: dict[int, Asker] = {}
        self.has_duplicates = False

    def block_with(self, prefix: Prefix) -> int | None:
        return next((block for block, held in self.contents.items() if held == prefix), None)

    def lease(self, num_blocks: int, granted: list[int]) -> None:
        """Which free blocks it gets is the manager's choice; which cached ones is not."""
        num_free = min(num_blocks, len(self.free))
        evicted, self.cached = self.cached[: num_blocks - num_free], self.cached[num_blocks - num_free :]
        assert set(granted[:num_free]) <= self.free
        assert granted[num_free:] == evicted
        for block in evicted:
            del self.contents[block]
        self.free -= set(granted)
        self.leased |= set(granted)

    def answer(self, request: int) -> list[Matched]:
        asker = self.askers[request]
        num_full, num_shareable = len(asker.ids) // SIZE, (len(asker.ids) - 1) // SIZE
        num_known = 0
        while num_known < num_shareable and self.block_with(asker.prefix(num_known + 1)) is not None:
            num_known += 1
        coming = [prefix for prefix, _ in self.announced]
        if num_known < num_shareable and asker.prefix(num_known + 1) in coming:
            self.waiting.append((asker.prefix(num_known + 1), request))
            return []

        for count in range(num_known + 1, num_full + 1):
            prefix = asker.prefix(count)
            if prefix not in coming and self.block_with(prefix) is None:
                self.announced.append((prefix, request))
        known = [block for n in range(1, num_known + 1) if (block := self.block_with(asker.prefix(n))) is not None]
        for block in known:
            self.readers[block] += 1
            self.cached = [each for each in self.cached if each != block]
        return [Matched(request, known)]

    def seal(self, request: int, blocks: list[int]) -> list[Matched]:
        answers = []
        asker = self.askers[request]
        for block in blocks:
            asker.num_sealed += 1
            prefix = asker.prefix(asker.num_sealed)
            if self.block_with(prefix) is None:
                self.contents[block] = prefix
                self.readers[block] = 1
                self.leased.remove(block)
            else:
                self.has_duplicates = True
            self.announced = [(each, owner) for each, owner in self.announced if each != prefix]
            answers += self._wake(prefix)
        return answers

    def release(self, request: int) -> list[Matched]:
        asker = self.askers.pop(request)
        for block in reversed(asker.table):
            if block in self.leased:
                self.leased.remove(block)
                self.free.add(block)
                continue
            self.readers[block] -= 1
            if not self.readers[block]:
                self.cached.append(block)
        self.waiting = [(prefix, each) for prefix, each in self.waiting if each != request]
        answers = []
        for prefix in [prefix for prefix, owner in self.announced if owner == request]:
            self.announced.remove((prefix, request))
            answers += self._wake(prefix)
        return answers

    def reset(self) -> int:
        num_cached = len(self.cached)
        self.free |= set(self.cached)
        for block in self.cached:
            del self.contents[block]
        self.cached = []
        return num_cached

    def _wake(self, prefix: Prefix) -> list[Matched]:
        woken = [request for each, request in self.waiting if each == prefix]
        self.waiting = [(each, request) for each, request in self.waiting if each != prefix]
        return [matched for request in woken for matched in self.answer(request)]


class KvHistory(RuleBasedStateMachine):
    """Requests ask, compute, generate, leave and come back, as batching lets them."""

    def __init__(self) -> None:
        super().__init__()
        self.kv = KvManager(NUM_BLOCKS, SIZE)
        self.naive = NaiveKv()
        self.spare: list[int] = []
        """Leased and in no request's table."""
        self.num_requests = 0

    @rule(
        ids=st.lists(st.integers(0, 1), min_size=1, max_size=11),
        salt=st.sampled_from(["", "", "", "mine"]),
    )
    def a_request_asks(self, ids: list[int], salt: str) -> None:
        self.num_requests += 1
        self._ask(self.num_requests, ids, salt)

    @precondition(lambda self: self.naive.askers)
    @rule(data=st.data(), more=st.lists(st.integers(0, 1), max_size=3))
    def a_request_computes(self, data: st.DataObject, more: list[int]) -> None:
        """Some of its tokens, or all of them and some that are generated."""
        request = data.draw(st.sampled_from(sorted(self.naive.askers)))
        asker = self.naive.askers[request]
        if not asker.is_answered:
            return
        # Generated tokens come one after the other, when all before them are computed.
        if len(asker.table) * SIZE >= len(asker.ids):
            asker.ids += more
        num_missing = -(-len(asker.ids) // SIZE) - len(asker.table)
        requested = data.draw(st.integers(0, num_missing)) if num_missing else 0
        granted = self.kv.lease(requested)
        self.naive.lease(requested, granted)
        asker.table += granted
        num_full = min(len(asker.table), len(asker.ids) // SIZE)
        begin = asker.num_sealed
        blocks, ids = asker.table[begin:num_full], asker.ids[begin * SIZE : num_full * SIZE]
        self._compare(self.kv.seal(request, blocks, ids), self.naive.seal(request, blocks))

    @precondition(lambda self: self.naive.askers)
    @rule(data=st.data(), comes_back=st.booleans())
    def a_request_leaves(self, data: st.DataObject, comes_back: bool) -> None:
        """It has ended, was cancelled while it waited, or was preempted: then it asks again with all it knows."""
        request = data.draw(st.sampled_from(sorted(self.naive.askers)))
        asker = self.naive.askers[request]
        self._compare(self.kv.release(request, asker.table), self.naive.release(request))
        if comes_back:
            self._ask(request, asker.ids, asker.salt)

    @rule(num_blocks=st.integers(1, 4))
    def batching_leases_ahead(self, num_blocks: int) -> None:
        granted = self.kv.lease(num_blocks)
        self.naive.lease(num_blocks, granted)
        self.spare += granted

    @rule()
    def batching_gives_back(self) -> None:
        self.kv.give_back(self.spare)
        self.naive.leased -= set(self.spare)
        self.naive.free |= set(self.spare)
        self.spare = []

    @rule()
    def the_cache_is_reset(self) -> None:
        assert self.kv.reset() == self.naive.reset()

    @invariant()
    def the_books_agree(self) -> None:
        self.kv.check_integrity()
        assert self.kv.num_free_blocks == len(self.naive.free)
        assert self.kv.num_cached_blocks == len(self.naive.cached)

    @invariant()
    def a_request_waits_only_for_one_that_computes(self) -> None:
        owners = dict(self.naive.announced)
        for prefix, _request in self.naive.waiting:
            assert self.naive.askers[owners[prefix]].is_answered

    @invariant()
    def no_beginning_is_evicted_before_its_tail(self) -> None:
        if self.naive.has_duplicates:
            return  # a private copy of a beginning may carry on a named tail

        evicted_at = {self.naive.contents[block]: at for at, block in enumerate(self.naive.cached)}
        for (salt, ids), at in evicted_at.items():
            assert len(ids) == SIZE or (salt, ids[:-SIZE]) in self.naive.contents.values()
            assert at < evicted_at.get((salt, ids[:-SIZE]), len(evicted_at))

    def _ask(self, request: int, ids: list[int], salt: str) -> None:
        self.naive.askers[request] = Asker(list(ids), salt)
        self._compare(self.kv.match(request, list(ids), salt), self.naive.answer(request))

    def _compare(self, got: list[Matched], expected: list[Matched]) -> None:
        assert got == expected
        for matched in got:
            asker = self.naive.askers[matched.request]
            assert not asker.is_answered, "a request was answered twice"
            for index, block in enumerate(matched.block_ids):
                assert self.naive.contents[block] == asker.prefix(index + 1), "a block holds something else"
            asker.table, asker.num_sealed = list(matched.block_ids), len(matched.block_ids)
            asker.is_answered = True


def run(max_examples: int, **others: Any) -> None:
    run_state_machine_as_test(
        KvHistory,
        settings=settings(
            max_examples=max_examples,
            stateful_step_count=40,
            report_multiple_bugs=False,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            **others,
        ),
    )


@pytest.mark.timeout(60 + NUM_HISTORIES // 5)
def test_the_manager_does_what_a_naive_rewrite_does() -> None:
    run(NUM_HISTORIES)


def _forgets_what_was_before(parent: bytes, ids: list[int], block_size: int) -> list[bytes]:
    return [bytes(ids[end - block_size : end]) for end in range(block_size, len(ids) + 1, block_size)]


def _evicts_the_newest(self: KvManager) -> int:
    self._cached.move_to_end(next(reversed(self._cached)), last=False)
    return _evict(self)


def _frees_the_beginning_first(self: KvManager, request: int, block_ids: list[int]) -> list[Matched]:
    return _release(self, request, block_ids[::-1])


def _abandons_nothing(self: KvManager, request: int, name: bytes) -> list[Matched]:
    return []


_evict, _release = KvManager._evict, KvManager.release
DEFECTS: dict[str, tuple[object, str, Callable[..., object]]] = {
    "names that cover one block only": (kv_manager, "block_names", _forgets_what_was_before),
    "one salt for all": (kv_manager, "root_name", lambda salt: b""),
    "the newest is evicted": (KvManager, "_evict", _evicts_the_newest),
    "the beginning is freed first": (KvManager, "release", _frees_the_beginning_first),
    "waiting requests are forgotten": (KvManager, "_abandon", _abandons_nothing),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_defect_is_seen(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, broken = DEFECTS[defect]
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(AssertionError):
        run(1000, phases=[Phase.generate], derandomize=True, database=None)
