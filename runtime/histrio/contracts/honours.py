"""What a kind of replica honours of a request, besides sampling fields. What is not said is not honoured.

The front asks `require_honoured` of every request; nothing else asks what serves the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from histrio.config.model_kind import TASKS, ModelKind
from histrio.errors import RequestError
from histrio.messages import MOST_LISTED_LOGPROBS, WHOLE_VOCABULARY, Ask

__all__ = ["OF_STAGES", "Honours", "require_honoured", "require_task"]


class Honours(msgspec.Struct, frozen=True, kw_only=True):
    """One flag for each request field; a request that gives another field than these is refused with 400."""

    priority: bool = False
    """Waiting requests enter by `Ask.priority`, the lowest first."""
    cache_salt: bool = False
    """Prefixes are shared only among requests of the same `Ask.cache_salt`."""
    max_speculation: bool = False
    """Not more than `Ask.max_speculation` tokens are drafted at a time."""
    seed: bool = False
    """With `Ask.seed`, tokens depend on `Generate.seed` and `choice`, and on no other request."""
    logprobs: bool = False
    """With `Ask.num_logprobs`, every token comes with its log probability."""
    top_logprobs: bool = False
    """Every token also comes with the log probabilities of the `Ask.num_logprobs` most likely tokens."""
    vocabulary_logprobs: bool = False
    """With `WHOLE_VOCABULARY` as their number, every token of the answer, or of the prompt, comes with the log
    probabilities of all tokens."""
    prompt_logprobs: bool = False
    """With `Ask.num_prompt_logprobs`, every token of the prompt but the first comes with its log probability."""
    logprob_token_ids: bool = False
    """Every token comes with the log probabilities of the tokens in `Ask.logprob_token_ids`."""
    pooling: bool = False
    """With `Ask.pooling`, a vector is made of the prompt."""
    grammar_kinds: list[str] = []
    """Kinds of `Ask.grammar` that are enforced; with `text` also their `max_reasoning_tokens`."""


OF_STAGES = Honours(
    priority=True,
    cache_salt=True,
    max_speculation=True,
    seed=True,
    logprobs=True,
    top_logprobs=True,
    vocabulary_logprobs=True,
    prompt_logprobs=True,
    logprob_token_ids=True,
    pooling=True,
)
"""What batching, stages and samplers honour; grammar kinds are those of the grammar backends."""


_ANSWERS: dict[ModelKind, str] = {
    "generate": "generates text",
    "embed": "makes vectors of texts, and by them scores and rankings",
    "score": "scores and ranks texts",
}
_NOT: dict[ModelKind, str] = {"generate": "generates no text", "embed": "makes no vectors", "score": "scores no texts"}


def require_honoured(ask: Ask, honours: Honours, by: str, backends: Sequence[str] = ()) -> None:
    """Raise `RequestError` with the field as `param` for what would be ignored. `by` says in words what serves,
    `backends` names those of its stages."""
    if ask.pooling is not None and not honours.pooling:
        _refuse_vectors(by, backends)
    asked = {
        "priority": ask.priority != 0,
        "cache_salt": ask.cache_salt != "",
        "max_speculation": ask.max_speculation is not None,
        "seed": ask.seed is not None,
        "logprobs": ask.num_logprobs is not None,
        "prompt_logprobs": ask.num_prompt_logprobs is not None,
        "logprob_token_ids": bool(ask.logprob_token_ids),
    }
    for field, is_asked in asked.items():
        if is_asked and not getattr(honours, field):
            _refuse(field, f"{by} does not honour this field; leave it out")
    if ask.num_logprobs and not (honours.top_logprobs or ask.logprob_token_ids):
        _refuse(
            "logprobs", f"{by} has log probabilities of the chosen tokens only; ask for none of the most likely ones"
        )
    for field, number in {"logprobs": ask.num_logprobs, "prompt_logprobs": ask.num_prompt_logprobs}.items():
        if number == WHOLE_VOCABULARY and not honours.vocabulary_logprobs:
            why = (
                f"{by} does not tell of the whole vocabulary; ask for {MOST_LISTED_LOGPROBS} of the most likely tokens"
            )
            _refuse(field, f"{why} or fewer")
    if ask.grammar is not None and ask.grammar.kind not in honours.grammar_kinds:
        _refuse("grammar", f"{by} enforces no grammar of the kind {ask.grammar.kind!r}")
    if ask.grammar is not None and ask.grammar.max_reasoning_tokens is not None and "text" not in honours.grammar_kinds:
        _refuse("max_reasoning_tokens", f"{by} does not bound reasoning; leave it out")


def require_task(kind: ModelKind, task: ModelKind) -> None:
    """Raise `RequestError` where a model of this kind does not do what is asked."""
    if task not in TASKS[kind]:
        text = f"model: this model {_NOT[task]}; it {_ANSWERS[kind]}"
        raise RequestError(text, param="model", code="unsupported_model")


def _refuse_vectors(by: str, backends: Sequence[str]) -> None:
    named = " or ".join(f"the backend {name!r}" for name in sorted(set(backends))) or by
    raise RequestError(
        f"model: no vectors are made of texts here, because {named} gives no hidden states or scores; serve the model "
        "by another",
        param="model",
        code="unsupported_model",
    )


def _refuse(field: str, why: str) -> None:
    raise RequestError(f"{field}: {why}", param=field, code="unsupported_parameter")
