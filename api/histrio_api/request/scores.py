"""Which log probabilities a request asks for: of its answer's tokens, and of its prompt's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from histrio.errors import RequestError
from histrio_api.shared.edge import Edge

__all__ = ["Scores", "require_few_scores", "wanted_scores"]


class Scores(NamedTuple):
    """How many of the likeliest tokens are wanted beside each token; None for no log probabilities at all."""

    num_top: int | None = None
    """Of the answers' tokens."""
    num_of_prompt: int | None = None
    """Of the prompts' tokens, wherever the answer shows them."""
    num_reported: int | None = None
    """Of the prompts' tokens, in a field of their own."""
    names_ids: bool = False
    """Entries have the ids of their tokens."""
    leaves_out_reasoning: bool = False
    """Tokens of the reasoning have no entries."""
    token_ids: Sequence[int] = ()
    """Tokens that are told of beside those of the answers, in place of the likeliest ones."""


def wanted_scores(edge: Edge, scores: Scores, *, is_stream: bool, echoes: bool = False) -> Scores:
    """What `scores` come to: `num_top` and `num_reported`.

    `echoes`: the prompts are part of the answers. Raises `RequestError` for what cannot be answered.
    """
    if scores.num_reported is not None and is_stream:
        text = "prompt_logprobs: only allowed when stream is false; streams of completions have echo with logprobs"
        raise RequestError(text, param="prompt_logprobs")

    wanted = {"prompt_logprobs": scores.num_reported, "echo": scores.num_top if echoes else None}
    asked = {name: num_top for name, num_top in wanted.items() if num_top is not None}
    for name in asked if not edge.gateway.model.honours.prompt_logprobs else ():
        instead = "give it without logprobs" if name == "echo" else "leave it out"
        text = f"{name}: {edge.honoured_by} has no log probabilities of prompts for this model; {instead}"
        raise RequestError(text, param=name, code="unsupported_parameter")
    _check_named(edge, scores)
    return scores._replace(
        num_of_prompt=max(asked.values(), default=None), token_ids=[*dict.fromkeys(scores.token_ids)]
    )


def _check_named(edge: Edge, scores: Scores) -> None:
    name, vocab_size = "logprob_token_ids", edge.gateway.model.vocab_size
    if scores.token_ids and scores.num_top is None:
        raise RequestError(f"{name}: only allowed with logprobs", param=name)
    if any(token_id >= vocab_size for token_id in scores.token_ids):
        raise RequestError(f"{name}: token ids must be below {vocab_size}", param=name)


def require_few_scores(limit: int, scores: Scores, num_choices: int, num_tokens: int) -> None:
    """Raise `RequestError` where the log probabilities of `num_tokens` tokens of prompts are more than `limit`.

    They are given in each of `num_choices` choices.
    """
    if scores.num_of_prompt is None or num_tokens * num_choices * (1 + scores.num_of_prompt) <= limit:
        return
    param = "echo" if scores.num_reported is None else "prompt_logprobs"
    text = f"{param}: at most {limit} log probabilities of prompts' tokens are given in one answer; send fewer prompts"
    raise RequestError(f"{text}, or ask for fewer of the likeliest tokens", param=param)
