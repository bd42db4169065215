"""Random histories of a whole replica's books against a naive rewrite: what a token depends on is what it must see.

The replica is the real batching and the real kv, which tell each other what they always do, in orders that are drawn.
In place of a model stands a memory: every block keeps the tokens that were written into it, and a step checks, for
every row, that the blocks of its table hold exactly the tokens before it. A wrongly shared, evicted or reused block is
seen at once.

`HISTRIO_HISTORIES=10000` plays that many histories in place of a few hundred.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from histrio.batching.lease import BlockLease
from histrio.batching.scheduler import Scheduler
from histrio.batching.sequence import Sequence
from histrio.contracts.policy import NoOptions
from histrio.kv.manager import KvManager
from histrio.messages import Generate, Release, RequestState
from tests.batching.imagined_replica import FORM, LONGEST_STEP_MS, MAX_SLOTS, Replica, next_token

NUM_HISTORIES = int(os.environ.get("HISTRIO_HISTORIES", "300"))


class RandomOrder:
    """Gives each request a random handicap."""

    name: ClassVar[str] = "random-order"
    options: ClassVar[type[msgspec.Struct]] = NoOptions

    def __init__(self, seed: int) -> None:
        self._rng = Random(seed)

    def handicap(self, command: Generate) -> int:
        """Up to so many later requests may go first."""
        return self._rng.randrange(8)


prompts = st.lists(st.integers(0, 2), min_size=1, max_size=36) | st.lists(st.integers(0, 1), min_size=20, max_size=36)
"""Of three tokens only, so that prefixes are shared by chance."""
priorities = st.integers(0, 2)
events = st.lists(
    st.one_of(
        st.tuples(st.just("add"), prompts, st.integers(1, 28), priorities),
        st.tuples(st.just("add"), prompts, st.integers(12, 28), priorities),
        st.tuples(st.just("add again"), st.integers(0, 30), st.integers(1, 16), priorities),
        st.tuples(st.sampled_from(["ends", "formed", "bounded", "undrafted"]), prompts, st.integers(1, 28), priorities),
        st.tuples(st.sampled_from(["choices", "scored choices"]), prompts, st.integers(1, 12), st.integers(2, 4)),
        st.tuples(st.just("scored"), prompts, st.integers(1, 12), priorities),
        st.tuples(st.just("cancel"), st.integers(0, 30), st.just(0), st.just(0)),
        st.tuples(st.just("turns"), st.integers(1, 30), st.just(0), st.just(0)),
        st.tuples(st.sampled_from(["reset", "lose"]), st.just(0), st.just(0), st.just(0)),
    ),
    min_size=8,
    max_size=40,
)
FIELDS: dict[str, dict[str, Any]] = {
    "ends": {"eos_ids": [2]},
    "formed": {"grammar": FORM},
    "scored": {"num_prompt_logprobs": 0},
    "bounded": {"max_speculation": 1},
    "undrafted": {"max_speculation": 0},
}


@dataclass
class Asked:
    """What a request asked for."""

    prompt: list[int]
    num_new_tokens: int
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def naive(self) -> list[int]:
        """Prompt and answer, one token after the other."""
        ids = list(self.prompt)
        for _ in range(self.num_new_tokens):
            ids.append(next_token(ids))
            if ids[-1] in self.fields.get("eos_ids", ()):
                break
        return ids


def play(replica: Replica, history: list[Any]) -> dict[int, Asked]:
    """Run a history to its end; what every request was."""
    asked: dict[int, Asked] = {}

    def add(prompt: list[int], num_new_tokens: int, **fields: Any) -> None:
        asked[len(asked) + 1] = Asked(prompt, num_new_tokens, fields)
        replica.add(len(asked), prompt, num_new_tokens, **fields)

    for kind, first, num_new_tokens, priority in history:
        if kind == "turns":
            for _ in range(first):
                replica.turn()
        elif kind == "cancel":
            replica.cancel(first)
        elif kind == "reset":
            replica.kv.reset()
        elif kind == "lose":
            replica.begin()
        elif kind.endswith("choices"):
            leader = len(asked) + 1
            for choice in range(priority):
                is_scored = kind == "scored choices" and choice == 0
                add(first, num_new_tokens, leader=leader, **(FIELDS["scored"] if is_scored else {}))
        elif kind == "add again":
            add(asked[1 + first % len(asked)].prompt if asked else [1], num_new_tokens, priority=priority)
        else:
            add(first, num_new_tokens, priority=priority, **FIELDS.get(kind, {}))
        replica.check()
    replica.run()
    return asked


def run(max_examples: int, **others: Any) -> int:
    """So many random histories; how many were played to their end."""
    num_played = 0

    def play_one(**drawn: Any) -> None:
        nonlocal num_played
        _every_request_gets_the_tokens_of_a_naive_run(**drawn)
        num_played += 1

    limits = settings(
        max_examples=max_examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        **others,
    )
    limits(given(**HISTORIES)(play_one))()
    return num_played


HISTORIES: dict[str, st.SearchStrategy[Any]] = {
    "history": events,
    "num_blocks": st.integers(16, 28),
    "has_drafts": st.booleans(),
    "lots": st.none() | st.integers(0, 1000).map(Random),
    "policy": st.none() | st.integers(0, 1000).map(RandomOrder),
    "options": st.fixed_dictionaries(
        {
            "prefix_cache": st.booleans(),
            "num_micro_batches": st.integers(1, 3),
            "num_ahead": st.integers(0, 1),
            "prefill_priority": st.integers(0, 1),
            "enable_preemption": st.sampled_from([True, True, False]),
            "preemption_threshold": st.sampled_from([0.0, 0.1, 0.5]),
            "step_budget_ms": st.sampled_from([LONGEST_STEP_MS, LONGEST_STEP_MS, 10.5]),
        }
    ),
}


def _every_request_gets_the_tokens_of_a_naive_run(
    history: list[Any],
    num_blocks: int,
    has_drafts: bool,
    lots: Random | None,
    policy: RandomOrder | None,
    options: dict[str, Any],
) -> None:
    replica = Replica(num_blocks, has_drafts=has_drafts, lots=lots, policy=policy, **options)
    asked = play(replica, history)
    assert not replica.scheduler.has_work, "a request starved"
    for request, each in asked.items():
        naive, found = each.naive, replica.tokens[request]
        is_cancelled = replica.ended[request] is RequestState.CANCELLED
        assert found == (naive[: len(found)] if is_cancelled else naive)
        is_scored = "num_prompt_logprobs" in each.fields and len(found) > len(each.prompt)
        scores = range(1, len(each.prompt)) if is_scored else ()
        assert replica.scores[request] == [float(position) for position in scores]
    assert options["enable_preemption"] or not replica.scheduler.num_preemptions
    assert replica.kv.num_free_blocks + replica.kv.num_cached_blocks == num_blocks


@pytest.mark.timeout(60 + NUM_HISTORIES // 5)
def test_every_request_gets_the_tokens_of_a_naive_run() -> None:
    assert run(NUM_HISTORIES) >= NUM_HISTORIES


def _keeps_scores(self: Sequence) -> list[int]:
    scores, block_ids = self.extras, _FORGET(self)
    self.extras = scores
    return block_ids


def _loses_releases(self: BlockLease) -> list[Release]:
    return _RELEASES(self)[1:]


def _room_of_the_answer(self: Sequence) -> int:
    return self.command.max_total_tokens - len(self.ids) - 1


_FORGET, _RELEASES = Sequence.forget_blocks, BlockLease.take_releases
DEFECTS: dict[str, tuple[object, str, object]] = {
    "scores that outlive a preemption": (Sequence, "forget_blocks", _keeps_scores),
    "answers of an epoch before": (Scheduler, "has_begun", property(lambda self: True)),
    "releases that are lost": (BlockLease, "take_releases", _loses_releases),
    "bounds of drafts that are not read": (Sequence, "num_useful_drafts", property(_room_of_the_answer)),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_defect_of_the_books_is_seen(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, broken = DEFECTS[defect]
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises((AssertionError, KeyError)):
        run(1000, phases=[Phase.generate], derandomize=True, database=None)


def test_the_model_sees_a_block_that_was_shared_wrongly() -> None:
    replica = Replica(32)
    replica.kv._block_of = _AlwaysFirst(replica.kv)  # a control: any name finds some block
    replica.add(1, [1, 2, 0, 1, 2, 0, 1, 2, 0], 8)
    _turns(replica, 6)
    replica.add(2, [2, 2, 0, 1, 2, 0, 1, 2, 0], 8)
    with pytest.raises(AssertionError):
        _turns(replica, 6)


def _turns(replica: Replica, count: int) -> None:
    for _ in range(count):
        replica.turn()


class _AlwaysFirst(dict[bytes, int]):
    """Finds the first named block for every name."""

    def __init__(self, kv: KvManager) -> None:
        super().__init__(kv._block_of)

    def __contains__(self, name: object) -> bool:
        return len(self) > 0

    def __getitem__(self, name: bytes) -> int:
        return next(iter(self.values()))


def test_a_burst_of_equal_prompts_computes_the_prefix_once() -> None:
    def cost(*, prefix_cache: bool) -> int:
        replica = Replica(400, prefix_cache=prefix_cache)
        for request in range(1, 33):
            replica.add(request, [1, 2, 0, 1] * 12 + [request % 3, 1], 1)
        replica.run()
        return replica.device.num_computed

    assert cost(prefix_cache=True) == 48 + 32 * 2
    assert cost(prefix_cache=False) == 32 * 50


def test_a_higher_priority_enters_first_and_a_lower_one_is_not_overtaken_for_ever() -> None:
    def entered(num_high: int) -> int:
        """How many later requests of priority 0 enter before one of priority 1."""
        replica = Replica(64, prefix_cache=False)
        replica.add(1, [1], 1, priority=1)
        for request in range(2, num_high + 2):
            replica.add(request, [1], 1, priority=0)
        while 1 not in replica.ended:
            replica.turn()
        return len(replica.ended) - 1

    assert entered(8) >= 8 - MAX_SLOTS
    assert entered(80) <= 32 + MAX_SLOTS
    assert entered(80) >= 32 - MAX_SLOTS


def test_nothing_runs_for_ever_when_blocks_hold_one_sequence_only() -> None:
    replica = Replica(16, num_micro_batches=2)
    for request in range(1, 6):
        replica.add(request, [request % 3] * 30, 30)
    replica.run(5_000)
    assert len(replica.ended) == 5
    assert replica.scheduler.num_preemptions > 0


def test_drafts_save_steps_and_change_no_token() -> None:
    def play_one(*, has_drafts: bool) -> tuple[int, list[int], Scheduler]:
        replica = Replica(64, has_drafts=has_drafts)
        replica.add(1, [1, 2, 0, 1], 55)
        replica.run()
        return len(replica.device.steps), replica.tokens[1], replica.scheduler

    num_plain, plain, _ = play_one(has_drafts=False)
    num_drafted, drafted, scheduler = play_one(has_drafts=True)
    assert drafted == plain
    assert num_drafted < 0.8 * num_plain
    assert scheduler.speculation is not None
    assert 0 < scheduler.speculation.num_accepted_tokens < scheduler.speculation.num_drafted_tokens


def test_choices_begin_with_a_copy_of_the_block_that_their_prompt_ends_in() -> None:
    def cost(num_choices: int, **fields: int) -> tuple[int, int]:
        replica = Replica(64)
        for request in range(1, num_choices + 1):
            replica.add(request, [1, 2, 0, 1, 2, 2, 0], 3, **fields)
        replica.run()
        assert all(tokens == replica.tokens[1] for tokens in replica.tokens.values())
        return replica.device.num_computed, replica.scheduler.num_forks

    assert cost(3, leader=1) == (7 + 2 * 1 + 3 * 2, 2)
    assert cost(3) == (7 + 2 * 3 + 3 * 2, 0), "a control: others share full blocks only"


def test_without_preemption_no_request_enters_before_all_blocks_are_free() -> None:
    def most_running(*, enable_preemption: bool) -> int:
        replica = Replica(20, prefix_cache=False, enable_preemption=enable_preemption)
        for request in range(1, 5):
            replica.add(request, [1, 2, 0], 29)
        most = 0
        while replica.turn():
            most = max(most, replica.scheduler.num_running)
        assert len(replica.ended) == 4
        return most

    assert most_running(enable_preemption=False) == 2
    assert most_running(enable_preemption=True) == 4


def test_newcomers_leave_the_preemption_threshold_to_running_ones() -> None:
    def preemptions(preemption_threshold: float) -> int:
        replica = Replica(18, prefix_cache=False, preemption_threshold=preemption_threshold)
        for request in range(1, 5):
            replica.add(request, [1, 2, 0, 2], 24)
        replica.run()
        assert len(replica.ended) == 4
        return replica.scheduler.num_preemptions

    assert preemptions(0.5) < preemptions(0.0)


def test_prompts_come_first_where_the_topology_says_so() -> None:
    def rows_of_the_step_after_a_newcomer(prefill_priority: int) -> list[int]:
        replica = Replica(64, prefix_cache=False, prefill_priority=prefill_priority)
        replica.add(1, [1], 30)
        _turns(replica, 4)
        replica.add(2, [1, 2, 0, 2, 1, 1, 0, 0, 1, 2], 4)
        replica.run()
        _first_chunk, rest = [rows for rows in replica.device.steps if len(rows) == 2][:2]
        return rest

    assert rows_of_the_step_after_a_newcomer(1) == [2, 1]
    assert rows_of_the_step_after_a_newcomer(0) == [1, 2]
