"""The sampling fields that the engines of other projects enforce alike."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = ["EngineFields"]

_TokenId = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,9}\Z")]
_Bias = Annotated[float, msgspec.Meta(ge=-100, le=100)]
_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]


class EngineFields(msgspec.Struct, frozen=True):
    """Enforced as they are meant by SGLang and by vLLM."""

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

    @property
    def can_continue(self) -> bool:
        """Whether an answer that has begun goes on with the same tokens if its first part is given as a prompt: it is
        greedy, for draws cannot be repeated, and no penalty counts the tokens of the answer alone."""
        return self.temperature == 0 and not (self.presence_penalty or self.frequency_penalty)
