"""Settings that get in the way of a stream, and the options of a harness made of them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeAlias

import msgspec
from msgspec import structs

from histrio.config.settings import MemorySettings, SpeculationSettings
from histrio.contracts.backend import (
    BackendFactory,
    OpenedStage,
    Progress,
    ReplicaSize,
    RunningStage,
    StageOutput,
    StageSpec,
    StepBatch,
)
from histrio.contracts.policy import BatchingPolicy, NoOptions
from histrio.messages import Generate
from histrio.plugins.registry import installed_plugins
from histrio.testing.harness import HarnessOptions
from tests.matrix.covering import Combination
from tests.matrix.crowds import Run

__all__ = ["FACTORS", "FailingFactory", "RandomOrder", "met", "not_met", "options_of"]

LONGEST = 80
"""No request of a crowd has more tokens, prompt and answer."""
_POLICIES = installed_plugins().batching_policies


class RandomOrder:
    """Gives each request a random handicap: which request is preempted for which is left to chance."""

    name: ClassVar[str] = "random-order"
    options: ClassVar[type[msgspec.Struct]] = NoOptions

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def handicap(self, command: Generate) -> int:
        """Up to a crowd's worth of later requests may go first."""
        return self._rng.randrange(24)


KvCacheDtype: TypeAlias = Literal["auto", "int8"]

FACTORS: dict[str, list[Any]] = {
    "cuts": [(), (1,), (1, 2)],
    "prefix_cache": [False, True],
    "chunked_prefill_size": [3, 16, 64, 1_000_000],
    "max_batch_size": [1, 5, 32],
    "max_num_tokens_per_batch": [40, 512],
    "kv_block_size": [4, 8, 16],
    "blocks": ["few", "some", "many"],
    "num_micro_batches": [1, 2, 3],
    "num_ahead": [0, 1],
    "speculation": [{}, {"adaptive": False, "speculation_length": 2}, {"adaptive": False, "speculation_length": 7}],
    "bounds": [
        {},
        {},
        {"enable_preemption": False},
        {"preemption_threshold": 0.3},
        {"prefill_priority": 1},
        {"step_budget_ms": 1.0},
    ],
    "policy": [*sorted(_POLICIES.owners), RandomOrder.name],
    "has_forms": [False, True],
    "fails": [False, False, True],
}


class FailingFactory:
    """A backend whose device fails in a few steps, counted over all stages and restarts. Its blocks may be int8."""

    def __init__(self, factory: BackendFactory, fails_at: set[int], kv_cache_dtype: KvCacheDtype = "auto") -> None:
        self.name, self.traits = factory.name, factory.traits
        self.probe, self.supports = factory.probe, factory.supports
        self.fails_at = fails_at
        self.num_steps = 0
        self._factory = factory
        self._memory = MemorySettings(kv_cache_dtype=kv_cache_dtype)

    def open(self, spec: StageSpec, progress: Progress) -> OpenedStage:
        """One more stage that counts along."""
        stage = self._factory.open(structs.replace(spec, memory=self._memory), progress)
        allocate = stage.allocate

        def allocated(size: ReplicaSize) -> RunningStage:
            running = allocate(size)
            step = type(running).step

            def counted(batch: StepBatch) -> StageOutput:
                self.num_steps += 1
                if self.num_steps in self.fails_at:
                    raise RuntimeError("the device failed, as it was told to")
                return step(running, batch)

            running.step = counted  # type: ignore[method-assign]
            return running

        stage.allocate = allocated  # type: ignore[method-assign]
        return stage


def options_of(row: Combination, seed: int, **others: Any) -> HarnessOptions:
    """`cuts` and `fails` aside: they are no options of batching."""
    size = row["kv_block_size"]
    least = -(-LONGEST // size)
    num_blocks = {"few": least + 1, "some": least * 5 // 2, "many": least * 40}[row["blocks"]]
    # A step can be planned before its tokens are drawn where the first stage is the last one.
    num_ahead = 0 if row["cuts"] else row["num_ahead"]
    return HarnessOptions(
        kv_block_size=size,
        num_cache_blocks=num_blocks,
        max_batch_size=row["max_batch_size"],
        max_num_tokens_per_batch=row["max_num_tokens_per_batch"],
        chunked_prefill_size=row["chunked_prefill_size"],
        num_micro_batches=row["num_micro_batches"],
        prefix_cache=row["prefix_cache"],
        policy=RandomOrder(seed) if row["policy"] == RandomOrder.name else _registered_policy(row["policy"]),
        num_ahead=num_ahead,
        speculation=SpeculationSettings(**row["speculation"]),
        batching_options=row["bounds"],
        max_sequence_length=LONGEST,
        **others,
    )


def met(run: Run) -> dict[str, int]:
    """How often the run met each obstacle: the engine's totals, and what its answers tell."""
    return {name: int(total) for name, total in run.totals.items()} | {
        "cached": run.num_cached_tokens,
        "replays": run.num_replays,
        "scores": run.num_scores,
        "wrong": int(run.totals["drafted_tokens_total"] - run.totals["accepted_tokens_total"]),
    }


def not_met(seen: Mapping[str, int], drafter: str, may_end_before_preemption: bool = False) -> list[str]:
    """What has to be met, and was not. Answers with drafts may be too short to be preempted."""
    required = ["cached", "forked_sequences_total", "replays", "scores"]
    if drafter == "none" or not may_end_before_preemption:
        required.append("preemptions_total")
    if drafter != "none":
        required += ["accepted_tokens_total", "wrong"]
    return [name for name in required if not seen[name] > 0]


def _registered_policy(name: str) -> BatchingPolicy:
    """With its default options."""
    kind = _POLICIES.get(name)
    return kind(kind.options())
