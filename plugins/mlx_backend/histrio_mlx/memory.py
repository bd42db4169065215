"""Devices and their memory: what there is, what weights and pages may take, and the refusal with the numbers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from histrio.contracts.backend import StageSpec
from histrio.errors import BackendError, DoesNotFit

__all__ = ["PAGE_SIZES", "Budget", "choose_device", "devices", "limit_cache", "measure"]

PAGE_SIZES = (4, 8, 16, 32, 64, 128)
"""Tokens per page; any would do."""
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_CACHE_SHARE = 1 / 16
"""Of the device's memory, for buffers that MLX keeps to use again."""


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

    def max_rows(self, bytes_per_row: int, spec: StageSpec) -> int:
        """Most rows whose states take half of the share for pages. Raises `DoesNotFit` if that is not even one."""
        if bytes_per_row == 0:
            return spec.max_rows

        rows = min(spec.max_rows, self._share(spec) // 2 // bytes_per_row)
        if rows > 0:
            return rows

        raise DoesNotFit(
            f"one row's state needs {_gib(bytes_per_row)}; {self.device} has {_gib(self.free_bytes)} free beside the "
            f"weights, and kvcache-mem-ratio {spec.kvcache_mem_ratio} of {_gib(self.total_bytes)} allows half of "
            f"{_gib(self._share(spec))}: raise the ratio"
        )

    def max_pages(self, bytes_per_token: int, state_bytes: int, spec: StageSpec) -> dict[int, int]:
        """Page size → most pages beside the rows' states, at most what `max_rows` sequences of full length take.

        Raises `DoesNotFit`.
        """
        share = max(self._share(spec) - state_bytes, 0)
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

    def _share(self, spec: StageSpec) -> int:
        return min(int(self.total_bytes * spec.kvcache_mem_ratio), self.free_bytes)

    def _pages(self, page_size: int, share: int, bytes_per_token: int, spec: StageSpec) -> int:
        page_bytes = page_size * max(bytes_per_token, 1)
        if spec.num_pages is not None:
            return min(spec.num_pages, self.free_bytes // page_bytes)

        useful = spec.max_rows * -(-spec.max_sequence_length // page_size)
        return min(useful, share // page_bytes)


def devices() -> list[str]:
    """The devices that MLX can use here, best first: `gpu` is Metal, or CUDA where MLX is built for it."""
    return ["gpu", "cpu"] if mx.is_available(mx.gpu) else ["cpu"]


def choose_device(name: str) -> mx.Device:
    """`auto`, `cpu` or `gpu` → a device that exists. Raises `BackendError`."""
    known = devices()
    chosen = known[0] if name == "auto" else name
    if chosen in known:
        return mx.Device(mx.gpu if chosen == "gpu" else mx.cpu)

    hint = "; gpu needs Apple Silicon with Metal" if chosen == "gpu" else ""
    raise BackendError(f"device {name!r} is not here; MLX sees {', '.join(known)}{hint}")


def limit_cache(budget: Budget) -> None:
    """Let MLX keep few freed buffers (by default as many as the device holds), and on Metal keep weights resident."""
    mx.set_cache_limit(int(budget.total_bytes * _CACHE_SHARE))
    if mx.metal.is_available() and budget.device == "gpu":
        mx.set_wired_limit(budget.total_bytes)


def measure(device: mx.Device) -> Budget:
    """The device's memory now. A GPU's is what the system lets it wire; a container's limit counts on a CPU."""
    if device == mx.Device(mx.gpu):
        info = mx.device_info()
        total = int(info.get("max_recommended_working_set_size") or info["memory_size"])
        return Budget("gpu", total, max(total - mx.get_active_memory(), 0))

    total = min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), _cgroup_limit())
    return Budget("cpu", total, min(_available_bytes(total), total))


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
