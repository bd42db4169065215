"""Random histories of a whole replica's books against a naive rewrite: what a token depends on is what it must see.

The replica here is the real scheduler, lease and kv manager, joined as the actors join them. In place of a model stands
a memory: every block keeps the tokens that were written into it, and a step checks, for every row, that the blocks of
its table hold exactly the tokens before it. A wrongly shared, evicted or reused block is seen at once.

`HISTRIO_HISTORIES=10000` plays that many histories in place of a few hundred.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from histrio.engine.blocks import BlockLease
from histrio.engine.cost import CostModel
from histrio.engine.draft_lengths import SpeculationLimits
from histrio.engine.kv_manager import KvManager
from histrio.engine.scheduler import Scheduler
from histrio.engine.speculation import Speculation
from histrio.engine.step_plan import Plan, SchedulerLimits
from histrio.messages import Copy, Generate, Open, RequestState, StepResult, TokenLogprobs
from histrio.testing.guesses import GuessDrafter

BLOCK_SIZE = 4
NUM_HISTORIES = int(os.environ.get("HISTRIO_HISTORIES", "300"))
LIMITS = SchedulerLimits(max_rows=4, max_step_tokens=16, block_size=BLOCK_SIZE, prefill_chunk=8, max_sequence_length=64)


def next_token(ids: list[int]) -> int:
    """What the imagined model says: depends on every token before."""
    return (sum((index + 1) * token for index, token in enumerate(ids)) * 31 + len(ids)) % 3


def half_right(known: list[int], num_tokens: int) -> list[int]:
    """A drafter that knows the imagined model, and is wrong about every third sum of tokens."""
    ids = list(known)
    for _ in range(num_tokens):
        right = next_token(ids)
        ids.append(right if sum(ids) % 3 else (right + 1) % 3)
    return ids[len(known) :]


class Replica:
    """Scheduler, lease and kv, with a memory for a device."""

    def __init__(
        self,
        num_blocks: int,
        *,
        has_prefix_cache: bool,
        max_in_flight: int,
        has_drafts: bool = False,
        runs_ahead: bool = False,
        **bounds: Any,
    ) -> None:
        limits = replace(
            LIMITS,
            has_prefix_cache=has_prefix_cache,
            speculation=SpeculationLimits(most=5) if has_drafts else None,
            num_blocks=num_blocks,
            can_copy=True,
            **bounds,
        )
        cost = CostModel()
        drafting = SpeculationLimits() if limits.speculation is None else limits.speculation
        speculation = Speculation(drafting, GuessDrafter(half_right), cost, clock=lambda: 0.0)
        self.scheduler = Scheduler(limits, BlockLease(), cost, speculation)
        self.kv = KvManager(num_blocks, BLOCK_SIZE, has_prefix_cache=has_prefix_cache)
        self.max_in_flight = max_in_flight
        self.runs_ahead = runs_ahead
        self._drawn: dict[int, int] = {}
        """Slot → the token drawn last."""
        self.num_computed = 0
        self.tokens: dict[int, list[int]] = {}
        """Request → everything known of it, by the naive book."""
        self.ended: dict[int, RequestState] = {}
        self.scores: dict[int, list[float]] = {}
        """Request → positions of the prompt's tokens whose log probabilities were told."""
        self.scored: set[int] = set()
        self._memory = [[-1] * BLOCK_SIZE for _ in range(num_blocks)]
        self._tables: dict[int, tuple[list[int], int]] = {}
        self._in_flight: deque[tuple[Plan, StepResult]] = deque()

    def add(self, request: int, prompt: list[int], num_new_tokens: int, **fields: Any) -> None:
        self.tokens[request] = list(prompt)
        self.scheduler.add(Generate(request, list(prompt), len(prompt), len(prompt) + num_new_tokens, **fields))

    def cancel(self, request: int) -> None:
        if self.scheduler.cancel(request, RequestState.CANCELLED):
            self.ended[request] = RequestState.CANCELLED

    def turn(self) -> bool:
        """One more step is issued, or the oldest one is answered; False when there is nothing to do."""
        if len(self._in_flight) < self.max_in_flight:
            for _attempt in range(len(self.tokens) + 2):
                plan = self.scheduler.plan(is_ahead=self.runs_ahead and bool(self._in_flight))
                self._settle(plan)
                if plan is not None:
                    self._in_flight.append((plan, self._run(plan)))
                    self.check()
                    return True
        if not self._in_flight:
            return False

        plan, result = self._in_flight.popleft()
        self.scheduler.cost.observe(len(plan.ids), plan.num_pairs, 0.01 + 0.0001 * len(plan.ids))
        for row in self.scheduler.apply(plan, result):
            self.tokens[row.request] += row.ids
            self.scores.setdefault(row.request, []).extend(each.logprob for each in row.prompt_logprobs)
            if row.state.is_finished:
                self.ended[row.request] = row.state
        self._settle(None)
        self.check()
        return True

    @property
    def is_waiting_for_a_step(self) -> bool:
        return bool(self._in_flight)

    def check(self) -> None:
        self.scheduler.check_integrity()
        self.kv.check_integrity()

    def _settle(self, plan: Plan | None) -> None:
        """What batching and kv tell each other after a plan, in their order."""
        lease = self.scheduler.lease
        answers = [m for release in lease.take_releases() for m in self.kv.release(release.request, release.block_ids)]
        for sealed in plan.sealed if plan else ():
            answers += self.kv.seal(sealed.request, sealed.block_ids, sealed.ids)
        for match in self.scheduler.take_matches():
            answers += self.kv.match(match.request, match.ids, match.salt)
        for matched in answers:
            self.scheduler.matched(matched.request, matched.block_ids)
        ahead = self.scheduler.num_blocks_ahead - lease.num_blocks_in_hand
        wanted = max(ahead, self.scheduler.num_missing_blocks)
        if wanted > 0 and not lease.is_exhausted:
            granted = self.kv.lease(wanted)
            lease.add(granted, self.kv.num_free_blocks + self.kv.num_cached_blocks)
            lease.is_exhausted = len(granted) < wanted

    def _run(self, plan: Plan) -> StepResult:
        """The device: check what each row sees, write its tokens, say the next ones as far as its drafts are right."""
        for order in plan.orders:
            if isinstance(order, Open):
                self._tables[order.slot] = ([], order.num_cached_tokens)
            elif isinstance(order, Copy):
                for source, target in zip(order.src, order.dst, strict=True):
                    self._memory[target] = list(self._memory[source])
        sampled: list[int] = []
        num_ids: list[int] = []
        scores: dict[int, list[TokenLogprobs]] = {}
        drafted = iter(plan.drafts)
        ids: Iterator[int] = iter(plan.ids)
        for row in plan.rows:
            table, length = self._tables[row.slot]
            table = table + row.block_ids
            assert row.start == length or (row.rewind and row.start < length), "the row and its slot disagree"
            for position in range(row.start, row.start + row.num_tokens):
                token = next(ids)
                written = self._drawn[row.slot] if token < 0 else token
                self._memory[table[position // BLOCK_SIZE]][position % BLOCK_SIZE] = written
            self._tables[row.slot] = (table, row.start + row.num_tokens)
            self.num_computed += row.num_tokens
        for sequence, row in zip(plan.sequences, plan.rows, strict=True):
            table, length = self._tables[row.slot]
            seen = [self._memory[table[position // BLOCK_SIZE]][position % BLOCK_SIZE] for position in range(length)]
            drafts = list(islice(drafted, max(row.num_sampled - 1, 0)))
            known = seen[: length - len(drafts)]
            if not sequence.is_finished:
                own = self.tokens[sequence.request]
                own = [*own, next_token(own)]  # what a step ahead goes on from, before its own token was told
                assert known == own[: len(known)], "a row sees tokens that are not its own"
            if row.num_sampled:
                gained = [next_token(known)]
                while len(gained) <= len(drafts) and drafts[len(gained) - 1] == gained[-1]:
                    gained.append(next_token(known + gained))
                sampled += gained
                self._drawn[row.slot] = gained[-1]
                num_ids.append(len(gained))
            if row.num_scored:
                scores[row.slot] = [TokenLogprobs(float(row.start + index + 1)) for index in range(row.num_scored)]
        return StepResult(plan.step, 1, sampled, num_ids=num_ids if plan.drafts else [], prompt_logprobs=scores)


prompts = st.lists(st.integers(0, 2), min_size=1, max_size=36) | st.lists(st.integers(0, 1), min_size=20, max_size=36)
"""Of three tokens only, so that prefixes are shared by chance."""
events = st.lists(
    st.one_of(
        st.tuples(st.just("add"), prompts, st.integers(1, 28), st.integers(0, 2)),
        st.tuples(st.just("add"), prompts, st.integers(12, 28), st.integers(0, 2)),
        st.tuples(st.just("add again"), st.integers(0, 30), st.integers(1, 16), st.integers(0, 2)),
        st.tuples(st.just("choices"), prompts, st.integers(1, 12), st.integers(2, 4)),
        st.tuples(st.just("scored"), prompts, st.integers(1, 12), st.integers(0, 2)),
        st.tuples(st.just("cancel"), st.integers(0, 30), st.just(0), st.just(0)),
        st.tuples(st.just("turns"), st.integers(1, 8), st.just(0), st.just(0)),
        st.tuples(st.just("reset"), st.just(0), st.just(0), st.just(0)),
    ),
    min_size=8,
    max_size=40,
)


def play(replica: Replica, history: list[Any]) -> dict[int, tuple[list[int], int]]:
    """Run a history to its end; what every request was: its prompt and how many tokens it wanted."""
    wanted: dict[int, tuple[list[int], int]] = {}
    for kind, first, num_new_tokens, priority in history:
        if kind == "turns":
            for _ in range(first):
                replica.turn()
        elif kind == "cancel":
            replica.cancel(first)
        elif kind == "reset":
            replica.kv.reset()
        elif kind == "choices":
            leader = len(wanted) + 1
            for request in range(leader, leader + priority):
                wanted[request] = (first, num_new_tokens)
                replica.add(request, first, num_new_tokens, leader=leader)
        elif kind == "scored":
            request = len(wanted) + 1
            wanted[request] = (first, num_new_tokens)
            replica.add(request, first, num_new_tokens, priority=priority, num_prompt_logprobs=0)
            replica.scored.add(request)
        else:
            known = list(wanted.values())
            prompt = first if kind == "add" else (known[first % len(known)][0] if known else [1])
            request = len(wanted) + 1
            wanted[request] = (prompt, num_new_tokens)
            replica.add(request, prompt, num_new_tokens, priority=priority)
        replica.check()
    for _ in range(20_000):
        if not replica.turn():
            break
    return wanted


@given(
    history=events,
    num_blocks=st.integers(16, 28),
    has_prefix_cache=st.booleans(),
    max_in_flight=st.integers(1, 3),
    has_drafts=st.booleans(),
    runs_ahead=st.booleans(),
    bounds=st.fixed_dictionaries(
        {
            "prompts_first": st.booleans(),
            "can_preempt": st.sampled_from([True, True, False]),
            "watermark": st.sampled_from([0.0, 0.1, 0.5]),
        }
    ),
)
@settings(
    max_examples=NUM_HISTORIES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
def test_every_request_gets_the_tokens_of_a_naive_run(
    history: list[Any],
    num_blocks: int,
    has_prefix_cache: bool,
    max_in_flight: int,
    has_drafts: bool,
    runs_ahead: bool,
    bounds: dict[str, Any],
) -> None:
    replica = Replica(
        num_blocks,
        has_prefix_cache=has_prefix_cache,
        max_in_flight=max_in_flight,
        has_drafts=has_drafts,
        runs_ahead=runs_ahead,
        **bounds,
    )
    wanted = play(replica, history)
    assert not replica.scheduler.has_work, "somebody starved"
    for request, (prompt, num_new_tokens) in wanted.items():
        naive = list(prompt)
        for _ in range(num_new_tokens):
            naive.append(next_token(naive))
        if replica.ended[request] is RequestState.CANCELLED:
            naive = naive[: len(replica.tokens[request])]
        assert replica.tokens[request] == naive
        if request in replica.scored and len(naive) > len(prompt):
            assert replica.scores[request] == [float(position) for position in range(1, len(prompt))]
    assert bounds["can_preempt"] or not replica.scheduler.num_preemptions
    assert replica.kv.num_free_blocks + replica.kv.num_cached_blocks + _in_hand(replica) == num_blocks


def _in_hand(replica: Replica) -> int:
    return replica.scheduler.lease.num_blocks_in_hand


def test_the_model_sees_a_block_that_was_shared_wrongly() -> None:
    replica = Replica(32, has_prefix_cache=True, max_in_flight=1)
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
    def cost(*, has_prefix_cache: bool) -> int:
        replica = Replica(400, has_prefix_cache=has_prefix_cache, max_in_flight=1)
        for request in range(1, 33):
            replica.add(request, [1, 2, 0, 1] * 12 + [request % 3, 1], 1)
        while replica.turn():
            pass
        return replica.num_computed

    assert cost(has_prefix_cache=True) == 48 + 32 * 2
    assert cost(has_prefix_cache=False) == 32 * 50


def test_a_higher_priority_enters_first_and_a_lower_one_is_not_overtaken_for_ever() -> None:
    def entered(num_high: int) -> int:
        """How many later requests of priority 0 enter before one of priority 1."""
        replica = Replica(64, has_prefix_cache=False, max_in_flight=1)
        replica.add(1, [1], 1, priority=1)
        for request in range(2, num_high + 2):
            replica.add(request, [1], 1, priority=0)
        while 1 not in replica.ended:
            replica.turn()
        return len(replica.ended) - 1

    assert entered(8) >= 8 - LIMITS.max_rows
    assert entered(80) <= 32 + LIMITS.max_rows
    assert entered(80) >= 32 - LIMITS.max_rows


def test_nothing_runs_for_ever_when_blocks_hold_one_sequence_only() -> None:
    replica = Replica(16, has_prefix_cache=True, max_in_flight=2)
    for request in range(1, 6):
        replica.add(request, [request % 3] * 30, 30)
    for _ in range(5_000):
        if not replica.turn():
            break
    assert len(replica.ended) == 5
    assert replica.scheduler.num_preemptions > 0


def test_drafts_save_steps_and_change_no_token() -> None:
    def play_one(*, has_drafts: bool) -> tuple[int, list[int], Scheduler]:
        replica = Replica(64, has_prefix_cache=True, max_in_flight=1, has_drafts=has_drafts)
        replica.add(1, [1, 2, 0, 1], 55)
        num_turns = 0
        while replica.turn():
            num_turns += 1
        return num_turns, replica.tokens[1], replica.scheduler

    num_plain, plain, _ = play_one(has_drafts=False)
    num_drafted, drafted, scheduler = play_one(has_drafts=True)
    assert drafted == plain
    assert num_drafted < 0.8 * num_plain
    assert scheduler.speculation is not None
    assert 0 < scheduler.speculation.num_accepted_tokens < scheduler.speculation.num_drafted_tokens


def test_choices_begin_with_a_copy_of_the_block_that_their_prompt_ends_in() -> None:
    def cost(num_choices: int, **fields: int) -> tuple[int, int]:
        replica = Replica(64, has_prefix_cache=True, max_in_flight=1)
        for request in range(1, num_choices + 1):
            replica.add(request, [1, 2, 0, 1, 2, 2, 0], 3, **fields)
        while replica.turn():
            pass
        assert all(tokens == replica.tokens[1] for tokens in replica.tokens.values())
        return replica.num_computed, replica.scheduler.num_forks

    assert cost(3, leader=1) == (7 + 2 * 1 + 3 * 2, 2)
    assert cost(3) == (7 + 2 * 3 + 3 * 2, 0), "a control: others share full blocks only"


def test_without_preemption_nobody_enters_before_all_blocks_are_free() -> None:
    def most_running(*, can_preempt: bool) -> int:
        replica = Replica(20, has_prefix_cache=False, max_in_flight=1, can_preempt=can_preempt)
        for request in range(1, 5):
            replica.add(request, [1, 2, 0], 29)
        most = 0
        while replica.turn():
            most = max(most, replica.scheduler.num_running)
        assert len(replica.ended) == 4
        return most

    assert most_running(can_preempt=False) == 2
    assert most_running(can_preempt=True) == 4


def test_newcomers_leave_the_watermark_to_those_who_run() -> None:
    def preemptions(watermark: float) -> int:
        replica = Replica(18, has_prefix_cache=False, max_in_flight=1, watermark=watermark)
        for request in range(1, 5):
            replica.add(request, [1, 2, 0, 2], 24)
        while replica.turn():
            pass
        assert len(replica.ended) == 4
        return replica.scheduler.num_preemptions

    assert preemptions(0.5) < preemptions(0.0)


def test_prompts_come_first_where_the_topology_says_so() -> None:
    def rows_of_the_step_after_a_newcomer(*, prompts_first: bool) -> list[int]:
        replica = Replica(64, has_prefix_cache=False, max_in_flight=1, prompts_first=prompts_first)
        replica.add(1, [1], 30)
        _turns(replica, 4)
        replica.add(2, [1, 2, 0, 2, 1, 1, 0, 0, 1, 2], 4)
        for _ in range(8):
            replica.turn()
            if replica.scheduler.num_running == 2 and not replica.is_waiting_for_a_step:
                break
        plan = replica.scheduler.plan()
        assert plan is not None
        return [row.num_tokens for row in plan.rows]

    assert rows_of_the_step_after_a_newcomer(prompts_first=True) == [2, 1]
    assert rows_of_the_step_after_a_newcomer(prompts_first=False) == [1, 2]
