"""The request fields that SGLang's engine honours, and the options of a stage that runs on it."""

from __future__ import annotations

from typing import Annotated

import msgspec

from histrio_sglang.options import DEFAULT_PAGE_SIZE, StageOptions

__all__ = ["EngineOptions", "SglangFields"]

_TokenId = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,9}\Z")]
_Bias = Annotated[float, msgspec.Meta(ge=-100, le=100)]
_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]


class SglangFields(msgspec.Struct, frozen=True):
    """The sampling fields SGLang enforces as they are meant.

    Not among them: `seed` (needs its deterministic mode, which not every attention has and which refuses `min_p`),
    `repetition_penalty` (counts the answer alone, not the prompt), `min_tokens` (needs its tokenizer).
    """

    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 1.0
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    top_k: Annotated[int, msgspec.Meta(ge=-1, le=2**30)] = 0
    """0 and -1: all tokens."""
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    presence_penalty: _Penalty = 0.0
    frequency_penalty: _Penalty = 0.0
    logit_bias: Annotated[
        dict[_TokenId, _Bias],
        msgspec.Meta(
            max_length=4096,
            description="an object of at most 4096 token ids, each with a number at least -100 and at most 100",
        ),
    ] = {}
    logprobs: bool = False
    """Answer `Extras.logprobs`: of the model's distribution with penalties and biases, before temperature."""


class EngineOptions(StageOptions, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """`options` of a stage with `backend = "sglang-engine"`: those of the stage level."""

    page_size: Annotated[int, msgspec.Meta(ge=1, le=256)] = DEFAULT_PAGE_SIZE
    """Tokens per page; some attention kernels insist on one."""
    cuda_graphs: bool = True
    """Record decode steps as CUDA graphs; without meaning on a CPU."""
