"""What a replica can hold, from what each of its stages can hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from histrio.config.settings import SizeSettings
from histrio.contracts.backend import Capability
from histrio.errors import DoesNotFit
from histrio.messages import EngineCapacity, ReplicaSize, StageCapacity

__all__ = ["SizeLimits", "fit", "fit_engine", "lost_capabilities"]


@dataclass(frozen=True, slots=True)
class SizeLimits:
    """What the topology asks for."""

    sizes: SizeSettings
    max_sequence_length: int


def fit(limits: SizeLimits, capacities: list[StageCapacity]) -> ReplicaSize:
    """The minimum over the stages, and what all of them are capable of.

    Raises `DoesNotFit` when no block size suits all, or no block fits.
    """
    common = set.intersection(*(set(capacity.max_blocks) for capacity in capacities))
    if not common:
        raise DoesNotFit(f"the stages share no block size: {[sorted(c.max_blocks) for c in capacities]}")

    sizes = limits.sizes
    block_size = min((size for size in common if size >= sizes.requested_block_size), default=max(common))
    capabilities = sorted(set.intersection(*(set(capacity.capabilities) for capacity in capacities)))
    max_slots = min(sizes.max_batch_size, *(capacity.max_slots for capacity in capacities))
    if Capability.BATCH not in capabilities:
        max_slots = 1
    useful = max_slots * -(-limits.max_sequence_length // block_size)
    num_blocks = min(useful, *(capacity.max_blocks[block_size] for capacity in capacities))
    if sizes.num_cache_blocks is not None:
        if sizes.num_cache_blocks > min(capacity.max_blocks[block_size] for capacity in capacities):
            raise DoesNotFit(
                f"num-cache-blocks asks for {sizes.num_cache_blocks} blocks, {num_blocks} of {block_size} tokens fit"
            )
        num_blocks = sizes.num_cache_blocks
    if num_blocks < 1:
        raise DoesNotFit(
            f"not one block of {block_size} tokens fits beside the weights; lower param-mem-ratio or use more stages"
        )
    max_step_tokens = min(sizes.max_num_tokens_per_batch, *(capacity.max_step_tokens for capacity in capacities))
    max_sequence_length = min(limits.max_sequence_length, num_blocks * block_size)
    if Capability.WHOLE_TEXTS in capabilities:
        max_sequence_length = min(max_sequence_length, max_step_tokens)
    return ReplicaSize(
        num_blocks=num_blocks,
        block_size=block_size,
        max_slots=max_slots,
        max_step_tokens=max_step_tokens,
        max_sequence_length=max_sequence_length,
        capabilities=capabilities,
    )


def fit_engine(limits: SizeLimits, capacity: EngineCapacity) -> ReplicaSize:
    """What an engine holds by itself, as blocks of one token; a longest sequence is the topology's, if it is shorter.

    Raises `DoesNotFit` when the topology asks for more blocks than that.
    """
    sizes = limits.sizes
    if sizes.num_cache_tokens is not None and sizes.num_cache_tokens > capacity.num_cache_tokens:
        raise DoesNotFit(
            f"num-cache-blocks asks for {sizes.num_cache_blocks} blocks of {sizes.requested_block_size} tokens, and "
            f"the engine holds {capacity.num_cache_tokens} tokens"
        )
    longest = min(limits.max_sequence_length, capacity.max_sequence_length, capacity.num_cache_tokens)
    return ReplicaSize(
        num_blocks=capacity.num_cache_tokens,
        block_size=1,
        max_slots=capacity.max_requests,
        max_step_tokens=sizes.max_num_tokens_per_batch,
        max_sequence_length=longest,
        capabilities=sorted(capacity.capabilities),
    )


def lost_capabilities(capabilities: Mapping[str, Collection[str]]) -> list[str]:
    """One sentence for each capability that a stage has and the replica lacks, from the capabilities by stage."""
    known = sorted({str(each) for stage in capabilities.values() for each in stage} | {str(Capability.BATCH)})
    lost = []
    for capability in known:
        without = [name for name in sorted(capabilities) if capability not in capabilities[name]]
        effect = "one sequence runs at a time" if capability == Capability.BATCH else "the replica does without"
        if without:
            lost.append(f"{', '.join(without)} cannot {capability}: {effect}")
    return lost
