"""The request fields that vLLM honours, and the options of a stage that runs on it."""

from __future__ import annotations

from typing import Annotated

import msgspec

from histrio.kit.engine_fields import EngineFields

__all__ = ["VllmFields", "VllmOptions"]


class VllmFields(EngineFields, frozen=True):
    """The sampling fields vLLM enforces as they are meant."""

    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=2)] = 1.0


class VllmOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """`options` of a stage with `backend = "vllm"`."""

    tp_size: Annotated[int, msgspec.Meta(ge=1)] = 1
    """Devices the model is spread over."""
    block_size: Annotated[int, msgspec.Meta(ge=1, le=256)] = 32
    """Tokens per block; a CPU insists on a multiple of 32."""
    mem_fraction_static: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] | None = None
    """Share of a device's memory for weights and blocks together; None: the sum of both ratios of the stage."""
    enforce_eager: bool = False
    """Neither compile the model nor record CUDA graphs."""
