"""What the batching rule costs per step: plan and apply, without stages, in CPU time of this thread."""

from __future__ import annotations

import time

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from histrio.batching.lease import BlockLease
from histrio.batching.scheduler import Scheduler
from histrio.batching.step_plan import Plan, SchedulerLimits
from histrio.messages import Generate, StepResult

pytestmark = pytest.mark.benchmark(timer=time.thread_time)

BLOCK_SIZE = 16


def _scheduler(num_sequences: int, num_long: int = 0) -> Scheduler:
    """A scheduler with as many waiting sequences, of which the last ones have long prompts, and blocks for all."""
    limits = SchedulerLimits(
        max_slots=num_sequences,
        max_step_tokens=2048,
        block_size=BLOCK_SIZE,
        max_sequence_length=100_000,
        has_prefix_cache=False,
    )
    scheduler = Scheduler(limits, BlockLease())
    scheduler.lease.add(list(range(500_000)))
    for request in range(num_sequences):
        num_tokens = 90_000 if request >= num_sequences - num_long else 1
        scheduler.add(Generate(request, list(range(num_tokens)), num_tokens, max_total_tokens=100_000))
    return scheduler


def _step(scheduler: Scheduler) -> Plan:
    plan = scheduler.plan()
    assert plan is not None
    scheduler.apply(plan, StepResult(plan.step, 1, [7] * sum(row.num_sampled for row in plan.rows)))
    return plan


@pytest.mark.parametrize("num_rows", [1, 16, 64, 256])
def test_decode_step(benchmark: BenchmarkFixture, num_rows: int) -> None:
    scheduler = _scheduler(num_rows)
    _step(scheduler)

    plan = benchmark.pedantic(_step, args=(scheduler,), rounds=300, warmup_rounds=20)

    assert len(plan.rows) == len(plan.ids) == num_rows
    scheduler.check_integrity()


def test_prefill_chunks_beside_32_decode_rows(benchmark: BenchmarkFixture) -> None:
    scheduler = _scheduler(64, num_long=32)
    _step(scheduler)

    plan = benchmark.pedantic(_step, args=(scheduler,), rounds=300, warmup_rounds=20)

    assert len(plan.ids) == 2048
    assert sum(row.num_tokens == 1 for row in plan.rows) >= 32
