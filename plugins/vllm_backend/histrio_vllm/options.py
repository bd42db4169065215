"""The request fields that vLLM honours, and the options of a stage that runs on it."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = ["VllmFields", "VllmOptions"]

_TokenId = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,9}\Z")]
_Bias = Annotated[float, msgspec.Meta(ge=-100, le=100)]
_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]


class VllmFields(msgspec.Struct, frozen=True):
    """The sampling fields vLLM enforces as they are meant."""

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
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=2)] = 1.0


class VllmOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """`options` of a stage with `backend = "vllm"`."""

    tp_size: Annotated[int, msgspec.Meta(ge=1)] = 1
    """Devices the model is spread over."""
    page_size: Annotated[int, msgspec.Meta(ge=1, le=256)] = 32
    """Tokens per page; a CPU insists on a multiple of 32."""
    mem_fraction_static: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] | None = None
    """Share of a device's memory for weights and pages together; None: the sum of both ratios of the stage."""
    enforce_eager: bool = False
    """Neither compile the model nor record CUDA graphs."""
