"""Which log probabilities a request asks for: of its answer's tokens, and of its prompt's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from histrio.errors import RequestError
from histrio.messages import MOST_LISTED_LOGPROBS, WHOLE_VOCABULARY
from histrio_api.shared.edge import Edge

__all__ = ["Scores", "is_listed", "is_whole", "num_vocabularies", "require_few_scores", "sent_number", "wanted_scores"]


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
    top_param: str = "top_logprobs"
    """The field that has `num_top`; errors name it."""
    by_text: bool = False
    """The likeliest tokens are told by their texts."""


def wanted_scores(edge: Edge, scores: Scores, *, is_stream: bool, echoes: bool = False) -> Scores:
    """What `scores` come to: `num_top` and `num_reported`.

    `echoes`: the prompts are part of the answers. Raises `RequestError` for what cannot be answered.
    """
    if scores.num_reported is not None and is_stream:
        text = "prompt_logprobs: only allowed when stream is false; streams of completions have echo with logprobs"
        raise RequestError(text, param="prompt_logprobs")

    num_top = _within_vocabulary(edge, scores.top_param, scores.num_top)
    num_reported = _within_vocabulary(edge, "prompt_logprobs", scores.num_reported)
    wanted = {"prompt_logprobs": num_reported, "echo": num_top if echoes else None}
    asked = {name: number for name, number in wanted.items() if number is not None}
    for name in asked if not edge.gateway.model.honours.prompt_logprobs else ():
        instead = "give it without logprobs" if name == "echo" else "leave it out"
        text = f"{name}: {edge.honoured_by} has no log probabilities of prompts for this model; {instead}"
        raise RequestError(text, param=name, code="unsupported_parameter")
    _check_named(edge, scores)
    return scores._replace(
        num_top=num_top,
        num_reported=num_reported,
        num_of_prompt=max(asked.values(), default=None),
        token_ids=[*dict.fromkeys(scores.token_ids)],
    )


def _within_vocabulary(edge: Edge, name: str, num_top: int | None) -> int | None:
    """As many as there are, if the operator lets requests have so many."""
    vocab_size, most = edge.gateway.model.vocab_size, edge.settings.max_logprobs
    if num_top is None:
        return None
    number = vocab_size if num_top == WHOLE_VOCABULARY else num_top
    if 0 <= most < number:
        has_all = f", and the vocabulary has {vocab_size}" if num_top == WHOLE_VOCABULARY else ""
        text = f"{name}: at most {most} of the likeliest tokens are told here{has_all}; ask for so many or fewer"
        raise RequestError(f"{text}, or have max-logprobs of [api] raised (-1 for no bound)", param=name)
    return min(number, vocab_size)


def is_listed(num_top: int) -> bool:
    """Whether so many of the likeliest tokens come one by one, and not with all of the vocabulary."""
    return num_top <= MOST_LISTED_LOGPROBS


def sent_number(num_top: int | None) -> int | None:
    """As `Ask` has it."""
    return num_top if num_top is None or is_listed(num_top) else WHOLE_VOCABULARY


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
    if scores.num_of_prompt is None or not is_listed(scores.num_of_prompt):
        return
    if num_tokens * num_choices * (1 + scores.num_of_prompt) <= limit:
        return
    param = "echo" if scores.num_reported is None else "prompt_logprobs"
    text = f"{param}: at most {limit} log probabilities of prompts' tokens are given in one answer; send fewer prompts"
    raise RequestError(f"{text}, or ask for fewer of the likeliest tokens", param=param)


def is_whole(scores: Scores) -> bool:
    """Whether the answers' tokens are told of with all of the vocabulary."""
    return scores.num_top is not None and not scores.token_ids and not is_listed(scores.num_top)


def num_vocabularies(scores: Scores, num_prompt_tokens: int, num_answer_tokens: int) -> int:
    """Of so many tokens, those that are told of with all of the vocabulary."""
    has_prompt = scores.num_of_prompt is not None and not is_listed(scores.num_of_prompt)
    return num_prompt_tokens * has_prompt + num_answer_tokens * is_whole(scores)
