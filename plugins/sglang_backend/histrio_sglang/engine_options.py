"""The request fields that SGLang's engine honours, and the options of a stage that runs on it."""

from __future__ import annotations

from typing import Annotated

import msgspec

from histrio.kit.engine_fields import EngineFields
from histrio_sglang.options import DEFAULT_PAGE_SIZE, StageOptions

__all__ = ["EngineOptions", "SglangFields"]


class SglangFields(EngineFields, frozen=True):
    """The sampling fields SGLang enforces as they are meant.

    Not among them: `seed` (needs its deterministic mode, which not every attention has and which refuses `min_p`),
    `repetition_penalty` (counts the answer alone, not the prompt), `min_tokens` (needs its tokenizer).
    """


class EngineOptions(StageOptions, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """`options` of a stage with `backend = "sglang-engine"`: those of the stage level."""

    page_size: Annotated[int, msgspec.Meta(ge=1, le=256)] = DEFAULT_PAGE_SIZE
    """Tokens per page; some attention kernels insist on one."""
    cuda_graphs: bool = True
    """Record decode steps as CUDA graphs; without meaning on a CPU."""
