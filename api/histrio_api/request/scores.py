"""Which log probabilities a request asks for: of its answer's tokens, and of its prompt's."""

from __future__ import annotations

from typing import NamedTuple

from histrio.errors import RequestError
from histrio_api.schemas.generation import GenerationRequest
from histrio_api.shared.edge import Edge

__all__ = ["Scores", "require_few_scores", "wanted_scores"]


class Scores(NamedTuple):
    """How many of the likeliest tokens are wanted beside each token; None for no log probabilities at all."""

    num_top: int | None = None
    """Of the answers' tokens."""
    num_of_prompt: int | None = None
    """Of the prompts' tokens."""


def wanted_scores(
    edge: Edge, request: GenerationRequest, num_top: int | None, *, param: str = "logprobs", echoes: bool = False
) -> Scores:
    """What a request asks for with `num_top` of the answers' tokens, in its field `param`, and `prompt_logprobs`.

    `echoes`: the prompts are part of the answers. Raises `RequestError` for what cannot be answered.
    """
    if num_top is not None and edge.gateway.model.engine:
        _check_engine(edge, num_top, param)
    return Scores(num_top, _num_of_prompt(edge, request, num_top if echoes else None))


def _num_of_prompt(edge: Edge, request: GenerationRequest, num_echoed: int | None) -> int | None:
    if request.prompt_logprobs is not None and request.stream:
        text = "prompt_logprobs: only allowed when stream is false; streams of completions have echo with logprobs"
        raise RequestError(text, param="prompt_logprobs")

    wanted = {"prompt_logprobs": request.prompt_logprobs, "echo": num_echoed}
    asked = {name: num_top for name, num_top in wanted.items() if num_top is not None}
    for name in asked if not edge.gateway.model.can_score_prompts else ():
        instead = "give it without logprobs" if name == "echo" else "leave it out"
        text = f"{name}: {edge.honoured_by} has no log probabilities of prompts for this model; {instead}"
        raise RequestError(text, param=name, code="unsupported_parameter")
    return max(asked.values(), default=None)


def require_few_scores(limit: int, request: GenerationRequest, num_likeliest: int | None, num_tokens: int) -> None:
    """Raise `RequestError` where the log probabilities of `num_tokens` tokens of prompts are more than `limit`.

    `num_likeliest` are wanted beside each, in every choice.
    """
    if num_likeliest is None or num_tokens * request.n * (1 + num_likeliest) <= limit:
        return
    param = "echo" if request.prompt_logprobs is None else "prompt_logprobs"
    text = f"{param}: at most {limit} log probabilities of prompts' tokens are given in one answer; send fewer prompts"
    raise RequestError(f"{text}, or ask for fewer of the likeliest tokens", param=param)


def _check_engine(edge: Edge, num_top: int, param: str) -> None:
    """An engine backend answers for the chosen tokens, where it says so."""
    if "logprobs" not in edge.gateway.model.sampling_fields:
        text = f"logprobs: not supported by {edge.honoured_by}; leave it out"
        raise RequestError(text, param="logprobs", code="unsupported_parameter")
    if num_top:
        text = f"{param}: {edge.honoured_by} has log probabilities of the chosen tokens only; give 0"
        raise RequestError(text, param=param, code="unsupported_parameter")
