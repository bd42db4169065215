"""The devices that MLX sees, and their memory."""

from __future__ import annotations

import mlx.core as mx

from histrio.errors import BackendError
from histrio.kit.memory import Budget, main_memory

__all__ = ["choose_device", "devices", "limit_cache", "measure"]

_CACHE_SHARE = 1 / 16
"""Share of the device's memory for buffers that MLX keeps to use again."""


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
    """The device's memory now. A GPU's is what the system lets it wire."""
    if device != mx.Device(mx.gpu):
        return main_memory()

    info = mx.device_info()
    total = int(info.get("max_recommended_working_set_size") or info["memory_size"])
    return Budget("gpu", total, max(total - mx.get_active_memory(), 0))
