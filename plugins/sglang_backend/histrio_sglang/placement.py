"""What a stage on SGLang would be, told from its files and its device. Imports torch, and nothing of SGLang."""

from __future__ import annotations

from histrio.contracts.backend import Probe, StageSpec
from histrio.kit.checkpoint import stage_dtype
from histrio_sglang.traits import CAPABILITIES
from histrio_torch.devices import choose_device, measure

__all__ = ["rehearse"]


def rehearse(spec: StageSpec) -> Probe:
    """Its dtype, empty where only SGLang knows it; how many bytes that makes, the core estimates from the files.

    Raises `ModelError`, `BackendError`.
    """
    device = choose_device(spec.device)
    dtype = stage_dtype(spec, on_cpu=device.type == "cpu")
    return Probe(
        available=True,
        capabilities=CAPABILITIES,
        dtype="" if dtype == "auto" else dtype,
        device_bytes=measure(device).total_bytes,
    )
