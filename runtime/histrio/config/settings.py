"""The settings of `[engine]`, by owner: each struct is carried whole, as it is, from the file to whatever uses it.

A key has one name everywhere, the file's in snake case. What is computed from settings has a name of its own.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

__all__ = [
    "AdmissionSettings",
    "BatchingSettings",
    "Count",
    "MemorySettings",
    "Seconds",
    "SizeSettings",
    "SpeculationSettings",
    "Text",
]

Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0, le=10_000_000)]
Text = Annotated[str, Meta(min_length=1)]
_Ratio = Annotated[float, Meta(gt=0, le=1)]

_DEFAULT_BLOCK_SIZE = 16


class AdmissionSettings(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """Which requests are accepted, and for how long."""

    max_unfinished_requests: Count = 512
    """Credits: requests accepted and not finished; more get 429 with Retry-After."""
    request_timeout_s: Seconds = 600.0
    """Seconds after which an accepted request ends with an error."""
    admission_policy: Text = "credits"
    """The policy that decides which requests are accepted."""
    admission_policy_options: dict[str, Any] = {}
    """Settings of the admission policy; it refuses unknown ones."""


class SizeSettings(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """How much a replica shall hold; `histrio.replica.sizing` says how much it can."""

    max_batch_size: Count = 256
    """Most sequences in one step."""
    max_num_tokens_per_batch: Count = 2048
    """Most tokens of all sequences in one step."""
    kv_block_size: Annotated[int, Meta(ge=1, le=1024)] | None = None
    """Tokens in one KV block, or the next larger number that all stages can do; omitted: 16."""
    num_cache_blocks: Count | None = None
    """Exact number of KV blocks; omitted: what fits into `kvcache-mem-ratio`."""

    @property
    def requested_block_size(self) -> int:
        """Tokens in one KV block where all stages can do it."""
        return self.kv_block_size or _DEFAULT_BLOCK_SIZE

    @property
    def num_cache_tokens(self) -> int | None:
        """Tokens in all KV blocks; None where their number is not set."""
        return None if self.num_cache_blocks is None else self.num_cache_blocks * self.requested_block_size


class MemorySettings(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """How the memory of a device is shared out, and in which format keys and values are kept."""

    param_mem_ratio: _Ratio = 0.65
    """Most of a device's memory that weights may take."""
    kvcache_mem_ratio: _Ratio = 0.25
    """Share of a device's memory for KV blocks."""
    kv_cache_memory_fraction: _Ratio | None = None
    """Another name of `kvcache-mem-ratio`; give one of them."""
    kv_cache_dtype: Literal["auto", "int8"] = "auto"
    """Number format of keys and values: auto is that of the activations."""

    @property
    def kv_share(self) -> float:
        """Share of a device's memory for KV blocks, whichever of the two names the file uses."""
        return self.kvcache_mem_ratio if self.kv_cache_memory_fraction is None else self.kv_cache_memory_fraction


class BatchingSettings(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """In which order requests enter, and what a step may take."""

    chunked_prefill_size: Count = 512
    """Most prompt tokens of one sequence in one step."""
    step_budget_ms: Annotated[float, Meta(gt=0, le=1_000_000)] = 250.0
    """Milliseconds of a step with prompts while others wait for a token; or 4 times a step without, if that is more."""
    micro_batch_ratio: Annotated[int, Meta(ge=1, le=64)] | None = None
    """Steps in flight at a time, each with its share of the sequences; omitted: one per device."""
    prefill_priority: Literal[0, 1] = 0
    """1: prompts come before the next tokens of decoding sequences, in whole chunks."""
    scheduler_wait_ms: Annotated[float, Meta(ge=0, le=10_000)] = 0.0
    """Milliseconds that the first request waits for others to be computed with it, when nothing runs."""
    enable_preemption: bool = True
    """Let requests enter before all blocks they can need are free; when blocks run out, the last ones are preempted."""
    preemption_threshold: Annotated[float, Meta(ge=0, lt=1)] = 0.02
    """Share of the blocks that new sequences leave to running ones, so that these are rarely preempted."""
    batching_policy: Text = "priority"
    """The policy that decides in which order requests enter."""
    batching_policy_options: dict[str, Any] = {}
    """Settings of the batching policy; it refuses unknown ones."""
    prefix_cache: bool = True
    """Keep KV blocks of finished requests for later ones that begin with the same tokens."""


class SpeculationSettings(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """Which drafter there is, and how many tokens it drafts."""

    drafter: Text = "auto"
    """The drafter, whose tokens the model verifies: `auto`, `off`, or the name of a drafter."""
    drafter_options: dict[str, Any] = {}
    """Settings of the drafter; it refuses unknown ones."""
    speculation_length: Annotated[int, Meta(ge=1, le=64)] = 4
    """Tokens drafted at a time, with `adaptive = false`."""
    min_speculation: Annotated[int, Meta(ge=0, le=64)] = 0
    """Least number of tokens drafted at a time, with `adaptive = true`."""
    max_speculation: Annotated[int, Meta(ge=1, le=64)] = 8
    """Most tokens drafted at a time."""
    adaptive: bool = True
    """Draft as many tokens as pay, by the cost of steps and the share of accepted drafts."""

    @property
    def is_obliging(self) -> bool:
        """Whether tokens are drafted whatever they cost."""
        return not self.adaptive or self.min_speculation > 0

    @property
    def max_draft(self) -> int:
        """Most tokens that the drafter is ever asked for at a time."""
        return self.max_speculation if self.adaptive else self.speculation_length
