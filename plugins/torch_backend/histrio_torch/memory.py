"""Devices and their memory: what there is, what weights and pages may take, and the refusal with the numbers."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from histrio.contracts.backend import StageSpec
from histrio.errors import BackendError, DoesNotFit
from histrio_torch.pages import RESIDENT_RATIO

__all__ = ["PAGE_SIZES", "Budget", "choose_device", "devices", "measure"]

PAGE_SIZES = (16, 32, 64, 128)
"""Tokens per page that the attention can do."""
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Budget:
    """Bytes of one device."""

    device: str
    total_bytes: int
    free_bytes: int

    def check_weights(self, weight_bytes: int, spec: StageSpec) -> None:
        """Raise `DoesNotFit` if the stage's weights exceed their share, or what is free."""
        allowed = int(self.total_bytes * spec.param_mem_ratio)
        if weight_bytes <= min(allowed, self.free_bytes):
            return

        raise DoesNotFit(
            f"layers {spec.first_layer}:{spec.last_layer} need {_gib(weight_bytes)} for weights; {self.device} has "
            f"{_gib(self.total_bytes)}, {_gib(self.free_bytes)} of it free, and param-mem-ratio {spec.param_mem_ratio} "
            f"allows {_gib(allowed)}: give the stage fewer layers, or raise param-mem-ratio"
        )

    def max_pages(self, bytes_per_token: int, spec: StageSpec) -> dict[int, int]:
        """Page size → most pages, at most what `max_rows` sequences of full length take. Raises `DoesNotFit`."""
        share = min(int(self.total_bytes * spec.kvcache_mem_ratio), self.free_bytes)
        bytes_per_token = self._with_copies(bytes_per_token)
        pages = {size: self._pages(size, share, bytes_per_token, spec) for size in PAGE_SIZES}
        wanted = 1 if spec.num_pages is None else spec.num_pages
        fitting = {size: count for size, count in pages.items() if count >= wanted}
        if fitting:
            return fitting

        needed = PAGE_SIZES[0] * wanted * bytes_per_token
        raise DoesNotFit(
            f"{wanted} pages of {PAGE_SIZES[0]} tokens need {_gib(needed)} ({bytes_per_token} bytes a token); "
            f"{self.device} has {_gib(self.free_bytes)} free beside the weights, and kvcache-mem-ratio "
            f"{spec.kvcache_mem_ratio} of {_gib(self.total_bytes)} allows {_gib(share)}: lower the number of pages or "
            "raise the ratio"
        )

    def _with_copies(self, bytes_per_token: int) -> int:
        """On a CPU the pool is followed by copies of running rows."""
        return math.ceil(bytes_per_token * (1 + RESIDENT_RATIO)) if self.device == "cpu" else bytes_per_token

    def _pages(self, page_size: int, share: int, bytes_per_token: int, spec: StageSpec) -> int:
        page_bytes = page_size * max(bytes_per_token, 1)
        if spec.num_pages is not None:
            return min(spec.num_pages, self.free_bytes // page_bytes)

        useful = spec.max_rows * -(-spec.max_sequence_length // page_size)
        return min(useful, share // page_bytes)


def devices() -> list[str]:
    """The devices that torch can use here, best first."""
    found = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def choose_device(name: str) -> torch.device:
    """`auto`, `cpu`, `mps`, `cuda` or `cuda:1` → a device that exists. Raises `BackendError`."""
    known = devices()
    if name == "auto":
        return torch.device(known[0])

    if name == "cuda" and "cuda:0" in known:
        return torch.device("cuda:0")

    if name in known:
        return torch.device(name)

    raise BackendError(f"device {name!r} is not here; torch sees {', '.join(known)}")


def measure(device: torch.device) -> Budget:
    """The device's memory now. On a CPU a container's limit counts as the total."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Budget(str(device), total, free)

    if device.type == "mps":
        total = int(torch.mps.recommended_max_memory())
        return Budget(str(device), total, total - int(torch.mps.driver_allocated_memory()))

    total = min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), _cgroup_limit())
    return Budget(str(device), total, min(_available_bytes(total), total))


def _available_bytes(total_bytes: int) -> int:
    """What can be taken without swapping; only Linux says so, elsewhere all of it counts."""
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024

    return total_bytes


def _cgroup_limit() -> int:
    limits = []
    for name in _CGROUP_LIMITS:
        path = Path(name)
        text = path.read_text(encoding="ascii").strip() if path.is_file() else "max"
        if text.isdigit():
            limits.append(int(text))
    return min(limits, default=2**63)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"
