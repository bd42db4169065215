"""The batching rule, with a stage that is only imagined: a result is whatever the test says."""

from __future__ import annotations

from typing import Any

from histrio.batching.lease import BlockLease
from histrio.batching.scheduler import Scheduler
from histrio.batching.step_plan import Plan, SchedulerLimits
from histrio.config.settings import BatchingSettings
from histrio.messages import Ask, Close, Generate, Open, RequestState, StepResult

LIMITS = SchedulerLimits(
    max_slots=4,
    max_step_tokens=16,
    block_size=4,
    settings=BatchingSettings(chunked_prefill_size=8),
    max_sequence_length=64,
    has_prefix_cache=False,
)


def make(num_blocks: int = 64, limits: SchedulerLimits = LIMITS) -> Scheduler:
    lease = BlockLease()
    lease.add(list(range(num_blocks)))
    lease.is_exhausted = True
    return Scheduler(limits, lease)


def command(request: int, num_prompt_tokens: int, num_new_tokens: int = 4, **fields: Any) -> Generate:
    ids = [1] * num_prompt_tokens
    return Generate(request, ids, num_prompt_tokens, num_prompt_tokens + num_new_tokens, Ask(**fields))


def answer(plan: Plan, token: int = 7) -> StepResult:
    return result(plan, [token for row in plan.rows for _ in range(row.num_sampled)])


def result(plan: Plan, ids: list[int]) -> StepResult:
    return StepResult(plan.step, 1, ids)


def settle(scheduler: Scheduler) -> None:
    """A kv that has no other blocks than those released."""
    for release in scheduler.lease.take_releases():
        scheduler.lease.add(release.block_ids)
        scheduler.lease.is_exhausted = True


def step(scheduler: Scheduler, token: int = 7) -> Plan:
    plan = scheduler.plan()
    settle(scheduler)
    plan = plan or scheduler.plan()  # preemption comes first, and what it frees later
    assert plan is not None
    scheduler.apply(plan, answer(plan, token))
    settle(scheduler)
    scheduler.check_integrity()
    return plan


def test_decode_rows_and_a_prefill_chunk_share_one_step() -> None:
    scheduler = make()
    scheduler.add(command(1, 3))
    step(scheduler)
    scheduler.add(command(2, 20))
    plan = step(scheduler)
    assert [(row.num_tokens, row.num_sampled) for row in plan.rows] == [(1, 1), (8, 0)]


def test_a_prompt_is_cut_into_chunks_and_sampled_at_its_end() -> None:
    scheduler = make()
    scheduler.add(command(1, 20))
    rows = [step(scheduler).rows[0] for _ in range(3)]
    assert [(row.start, row.num_tokens, row.num_sampled) for row in rows] == [(0, 8, 0), (8, 8, 0), (16, 4, 1)]
    assert [len(row.block_ids) for row in rows] == [2, 2, 1]


def test_no_step_exceeds_its_token_budget() -> None:
    scheduler = make()
    for request in range(1, 5):
        scheduler.add(command(request, 7))
    assert sum(row.num_tokens for row in step(scheduler).rows) == LIMITS.max_step_tokens


def test_requests_enter_in_the_order_of_arrival() -> None:
    scheduler = make()
    for request in range(1, 7):
        scheduler.add(command(request, 2))
    plan = step(scheduler)
    assert [sequence.request for sequence in plan.sequences] == [1, 2, 3, 4]
    assert scheduler.num_waiting == 2


def test_states_name_why_a_sequence_ended() -> None:
    scheduler = make()
    scheduler.add(command(1, 2, eos_ids=[9]))
    scheduler.add(command(2, 2, stop_ids=[9]))
    scheduler.add(command(3, 2, num_new_tokens=1))
    plan = scheduler.plan()
    assert plan is not None
    rows = scheduler.apply(plan, result(plan, [9, 9, 5]))
    assert [row.state for row in rows] == [
        RequestState.FINISHED_EOS,
        RequestState.FINISHED_STOP,
        RequestState.FINISHED_MAX_LENGTH,
    ]
    assert not scheduler.has_work
    scheduler.check_integrity()


def test_a_result_for_a_cancelled_sequence_is_ignored() -> None:
    scheduler = make()
    scheduler.add(command(1, 2))
    scheduler.add(command(2, 2))
    plan = scheduler.plan()
    assert plan is not None
    assert scheduler.cancel(1, RequestState.CANCELLED)
    rows = scheduler.apply(plan, result(plan, [5, 6]))
    assert [(row.request, row.ids) for row in rows] == [(2, [6])]
    assert not scheduler.cancel(1, RequestState.CANCELLED)
    scheduler.check_integrity()


def test_a_sequence_in_flight_is_not_planned_again() -> None:
    scheduler = make()
    scheduler.add(command(1, 2))
    assert scheduler.plan() is not None
    assert scheduler.plan() is None


def test_a_slot_is_closed_before_it_is_opened_again() -> None:
    scheduler = make()
    scheduler.add(command(1, 2, num_new_tokens=1))
    step(scheduler)
    scheduler.add(command(2, 2))
    plan = step(scheduler)
    closed, opened = plan.commands
    assert isinstance(closed, Close)
    assert isinstance(opened, Open)
    assert closed.slot == opened.slot


def test_the_youngest_is_preempted_when_blocks_run_out() -> None:
    scheduler = make(num_blocks=4)
    scheduler.add(command(1, 7, num_new_tokens=8))
    scheduler.add(command(2, 7, num_new_tokens=8))
    step(scheduler)
    step(scheduler)
    plan = step(scheduler)
    assert [sequence.request for sequence in plan.sequences] == [1]
    assert scheduler.num_preemptions == 1
    assert scheduler.num_waiting == 1


def test_a_preempted_sequence_is_computed_again_from_all_its_tokens() -> None:
    scheduler = make(num_blocks=4)
    scheduler.add(command(1, 7, num_new_tokens=3))
    scheduler.add(command(2, 7, num_new_tokens=4))
    for _ in range(3):
        step(scheduler)
    assert scheduler.num_preemptions == 1
    plan = step(scheduler)
    assert [(sequence.request, row.start) for sequence, row in zip(plan.sequences, plan.rows, strict=True)] == [(2, 0)]
    assert plan.ids == [1] * 7 + [7]


def test_nothing_is_preempted_while_kv_may_have_blocks() -> None:
    scheduler = make(num_blocks=4)
    scheduler.lease.is_exhausted = False
    scheduler.add(command(1, 7, num_new_tokens=8))
    scheduler.add(command(2, 7, num_new_tokens=8))
    step(scheduler)
    step(scheduler)
    assert scheduler.plan() is None
    assert scheduler.num_missing_blocks > 0
    assert scheduler.num_preemptions == 0
