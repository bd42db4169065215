"""Memory of a device: what there is, what weights and blocks may take, and the refusal with the numbers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from histrio.contracts.backend import StageSpec
from histrio.errors import DoesNotFit

__all__ = ["Budget", "available_bytes", "describe_bytes", "main_memory", "memory_bytes"]

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_MEMINFO = "/proc/meminfo"


@dataclass(frozen=True)
class Budget:
    """Bytes of one device, and what a stage may take of them."""

    device: str
    total_bytes: int
    free_bytes: int

    def check_weights(self, weight_bytes: int, spec: StageSpec) -> None:
        """Raise `DoesNotFit` if the stage's weights exceed their share, or what is free."""
        allowed = int(self.total_bytes * spec.memory.param_mem_ratio)
        if weight_bytes <= min(allowed, self.free_bytes):
            return

        raise DoesNotFit(
            f"layers {spec.first_layer}:{spec.last_layer} need {_gib(weight_bytes)} for weights; {self.device} has "
            f"{_gib(self.total_bytes)}, {_gib(self.free_bytes)} of it free, and param-mem-ratio "
            f"{spec.memory.param_mem_ratio} allows {_gib(allowed)}: give the stage fewer layers, or raise the ratio"
        )

    def max_slots(self, bytes_per_slot: int, spec: StageSpec) -> int:
        """Most slots whose states take half of the share for blocks. Raises `DoesNotFit` if that is not even one."""
        if bytes_per_slot == 0:
            return spec.sizes.max_batch_size

        slots = min(spec.sizes.max_batch_size, self._share(spec) // 2 // bytes_per_slot)
        if slots > 0:
            return slots

        raise DoesNotFit(
            f"one sequence's state needs {_gib(bytes_per_slot)}; {self.device} has {_gib(self.free_bytes)} free beside "
            f"the weights, and kvcache-mem-ratio {spec.block_mem_ratio} of {_gib(self.total_bytes)} allows half of "
            f"{_gib(self._share(spec))}: raise the ratio"
        )

    def max_blocks(
        self, bytes_per_token: int, spec: StageSpec, block_sizes: Sequence[int], state_bytes: int = 0
    ) -> dict[int, int]:
        """Block size → most blocks, at most what `max_slots` sequences of full length take.

        `state_bytes` of the share are taken by the slots' states. Only block sizes that give the blocks that are asked
        for are in the answer. Raises `DoesNotFit` where none does.
        """
        share = max(self._share(spec) - state_bytes, 0)
        blocks = {size: self._num_blocks(size, share, bytes_per_token, spec) for size in block_sizes}
        num_requested = 1 if spec.sizes.num_cache_blocks is None else spec.sizes.num_cache_blocks
        fitting = {size: count for size, count in blocks.items() if count >= num_requested}
        if fitting:
            return fitting

        needed = block_sizes[0] * num_requested * bytes_per_token
        raise DoesNotFit(
            f"{num_requested} blocks of {block_sizes[0]} tokens need {_gib(needed)} ({bytes_per_token} bytes a token); "
            f"{self.device} has {_gib(self.free_bytes)} free beside the weights, and kvcache-mem-ratio "
            f"{spec.block_mem_ratio} of {_gib(self.total_bytes)} allows {_gib(share)}: lower the number of blocks or "
            "raise the ratio"
        )

    def _share(self, spec: StageSpec) -> int:
        return min(int(self.total_bytes * spec.block_mem_ratio), self.free_bytes)

    def _num_blocks(self, block_size: int, share: int, bytes_per_token: int, spec: StageSpec) -> int:
        block_bytes = block_size * max(bytes_per_token, 1)
        if spec.sizes.num_cache_blocks is not None:
            return min(spec.sizes.num_cache_blocks, self.free_bytes // block_bytes)

        useful = spec.sizes.max_batch_size * -(-spec.max_sequence_length // block_size)
        return min(useful, share // block_bytes)


def main_memory() -> Budget:
    """The memory that a CPU computes in, as it is now."""
    return Budget("cpu", memory_bytes(), available_bytes())


def describe_bytes(num_bytes: int | None) -> str:
    """The number as people read it, in GiB or MiB; `unknown` for None."""
    if num_bytes is None:
        return "unknown"
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"


def memory_bytes() -> int:
    """Main memory that this process may use: the machine's, or the container's if that is less."""
    limits = [limit for file in _CGROUP_LIMITS if (limit := _read_limit(file)) is not None]
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *limits])


def available_bytes() -> int:
    """The part of `memory_bytes` that can be taken without swapping; only Linux says so, elsewhere all of it counts."""
    total = memory_bytes()
    try:
        lines = Path(_MEMINFO).read_text(encoding="ascii").splitlines()
    except OSError:
        return total

    available = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return total if available is None else min(int(available) * 1024, total)


def _read_limit(file: str) -> int | None:
    """Bytes; None where the file is not there, or says `max`."""
    try:
        return int(Path(file).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"
