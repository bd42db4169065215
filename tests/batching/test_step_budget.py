"""While a long prompt is computed, decoding sequences go on at the pace of the step budget. Time here is imagined."""

from __future__ import annotations

import math
import random

import pytest

from histrio.batching.lease import BlockLease
from histrio.batching.scheduler import Scheduler
from histrio.batching.speculation.cost import attended_pairs
from histrio.batching.step_plan import Plan, SchedulerLimits
from histrio.config.settings import BatchingSettings
from histrio.messages import Generate, StepResult

NUM_PROMPT_TOKENS = 32_000
BUDGET_S = 0.25


def seconds(plan: Plan, rng: random.Random, least_s: float) -> float:
    """A device with linear layers and attention, and a little noise; `least_s` is what any step takes."""
    pairs = sum(attended_pairs(row.start, row.num_tokens) for row in plan.rows)
    return (least_s + 0.0012 * len(plan.ids) + 6e-8 * pairs) * rng.uniform(0.95, 1.1)


def play(
    step_budget_ms: float, least_s: float = 0.02, num_tokens: int = NUM_PROMPT_TOKENS
) -> tuple[list[float], float]:
    """Seconds of each step while four sequences decode beside the prompt, and how long the prompt took."""
    limits = SchedulerLimits(
        max_slots=8,
        max_step_tokens=2048,
        block_size=16,
        max_sequence_length=40_000,
        has_prefix_cache=False,
        settings=BatchingSettings(step_budget_ms=step_budget_ms),
    )
    scheduler = Scheduler(limits, BlockLease())
    scheduler.lease.add(list(range(12_000)))
    rng = random.Random(1)

    def step() -> float:
        plan = scheduler.plan()
        assert plan is not None
        took = seconds(plan, rng, least_s)
        scheduler.cost.observe(len(plan.ids), plan.num_pairs, took)
        scheduler.apply(plan, StepResult(plan.step, 1, [7] * sum(row.num_sampled for row in plan.rows)))
        return took

    for request in range(1, 5):
        scheduler.add(Generate(request, [1] * 200, 200, 30_000))
    for _ in range(30):
        step()
    scheduler.add(Generate(9, [1] * num_tokens, num_tokens, num_tokens + 5))
    steps = []
    while scheduler._roster.by_request[9].progress.computed < num_tokens:
        steps.append(step())
    return steps, sum(steps)


def p95(values: list[float]) -> float:
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def test_gaps_stay_within_the_budget_while_a_long_prompt_is_computed() -> None:
    with_budget, took_s = play(BUDGET_S * 1000)
    without, fastest_s = play(1e6)
    assert p95(with_budget) <= 1.2 * BUDGET_S
    assert p95(without) > 2 * BUDGET_S, "a control: whole chunks take longer"
    assert took_s < 2.0 * fastest_s, "and the prompt is not starved for it"


def test_later_chunks_are_smaller() -> None:
    steps, _ = play(BUDGET_S * 1000)
    assert len(steps) > NUM_PROMPT_TOKENS / 512
    assert p95(steps[: len(steps) // 4]) == pytest.approx(p95(steps[-len(steps) // 4 :]), rel=0.3)


def test_on_a_slow_device_prompts_get_three_quarters_of_a_step() -> None:
    least_s, num_tokens = 0.2, 4000
    slow, took_s = play(BUDGET_S * 1000, least_s, num_tokens)
    _, of_a_wide_budget_s = play(4000 * least_s, least_s, num_tokens)

    assert p95(slow) <= 1.2 * 4 * least_s
    assert took_s == pytest.approx(of_a_wide_budget_s, rel=0.1)
    assert took_s < num_tokens / ((BUDGET_S - least_s) / 0.0012) * BUDGET_S / 2, "the budget alone takes twice as long"
