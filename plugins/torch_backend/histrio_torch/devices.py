"""The devices that torch sees, and their memory. Other plugins that compute with torch use this too."""

from __future__ import annotations

import torch

from histrio.errors import BackendError
from histrio.kit.memory import Budget, main_memory

__all__ = ["choose_device", "devices", "measure"]


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
    """The device's memory now."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Budget(str(device), total, free)

    if device.type == "mps":
        total = int(torch.mps.recommended_max_memory())
        return Budget(str(device), total, total - int(torch.mps.driver_allocated_memory()))

    return main_memory()
