"""The options of a stage that runs on SGLang."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from histrio.contracts.options import as_options
from histrio.errors import BackendError

__all__ = ["DEFAULT_PAGE_SIZE", "StageOptions", "read_options"]

DEFAULT_PAGE_SIZE = 16


class StageOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """`options` of a stage with `backend = "sglang"`."""

    attention_backend: str | None = None
    """SGLang's kernels for attention, such as triton, fa3, flashinfer; None: its choice, torch_native on a CPU."""
    moe_runner_backend: str = "auto"
    """SGLang's kernels for mixtures of experts."""
    tp_size: Annotated[int, msgspec.Meta(ge=1)] = 1
    """Devices one stage is spread over."""
    page_size: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    """Tokens per page, 0 for `[engine] kv-block-size` or 16; some attention kernels insist on one."""
    mem_fraction_static: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] | None = None
    """Share of a device's memory for weights and pages together; None: the sum of both ratios of the stage."""
    cuda_graphs: bool = False
    """Record decode steps as CUDA graphs."""
    force_version: bool = False
    """Try a release of SGLang that was not tested."""


def read_options(options: Any) -> StageOptions:
    """The options of a stage. Raises `BackendError`, `TopologyError`."""
    read = as_options(options, StageOptions, "options")
    if read.tp_size > 1:
        raise BackendError(
            f"tp-size = {read.tp_size}: a stage of the sglang backend runs on one device; split the model into more "
            'stages, or use backend = "sglang-engine", which spreads over several devices'
        )

    return read
