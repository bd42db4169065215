"""From a prepared request to a submission for each prompt: the request's numbers are checked here."""

from __future__ import annotations

from collections.abc import Collection

from histrio.contracts.gateway import Submission
from histrio.errors import RequestError
from histrio.messages import Ask, SamplingFields
from histrio_api.request.contradictions import require_a_token
from histrio_api.request.prepared import Prepared
from histrio_api.request.prompts import Prompt, num_new_tokens
from histrio_api.request.scores import require_few_scores, sent_number
from histrio_api.schemas.generation import GenerationRequest
from histrio_api.shared.edge import Edge

__all__ = ["submissions"]

_UINT64 = 2**64 - 1


def submissions(edge: Edge, prepared: Prepared, request_id: str) -> list[Submission]:
    """One for each prompt. Raises `RequestError` for numbers that are out of bounds, or contradict each other."""
    received = prepared.received
    request = received.request
    _require_few_stops(edge, request)
    _require_few_choices(edge, request, len(prepared.prompts))
    if request.stream_options.include_usage and not request.stream:
        raise RequestError("stream_options: only allowed when stream is true", param="stream_options")

    _require_spaces(edge, prepared)
    edge.gateway.check_sampling(received.sampling)
    sampling = edge.gateway.model.default_sampling | received.sampling
    _require_a_token(edge, request, sampling)
    num_prompt_tokens = sum(len(prompt.ids) for prompt in prepared.prompts)
    require_few_scores(edge.settings.max_prompt_scores, prepared.scores, request.n, num_prompt_tokens)
    # A prompt is scored by a request for one token, which is then left out.
    num_wanted = 1 if prepared.num_wanted_tokens == 0 else prepared.num_wanted_tokens
    model, param = edge.gateway.model, prepared.prompt_param
    rooms = [num_new_tokens(model, prompt, num_wanted, param) for prompt in prepared.prompts]
    return [
        Submission(
            ids=prompt.ids,
            max_new_tokens=room,
            ask=_ask(edge, prepared, prompt, sampling),
            num_choices=request.n,
            id=request_id,
            key=received.key,
            user=received.user,
        )
        for prompt, room in zip(prepared.prompts, rooms, strict=True)
    ]


def _ask(edge: Edge, prepared: Prepared, prompt: Prompt, sampling: SamplingFields) -> Ask:
    model, received = edge.gateway.model, prepared.received
    request = received.request
    return Ask(
        sampling=sampling,
        eos_ids=[] if request.ignore_eos else model.eos_ids,
        stop_ids=[*request.stop_token_ids, *(() if request.ignore_eos else prompt.ends)],
        seed=None if request.seed is None else request.seed & _UINT64,
        priority=edge.keys.limits_of(received.key).priority(request.priority),
        cache_salt=request.cache_salt,
        grammar=None if prepared.grammar is None else prepared.grammar.spec,
        num_logprobs=sent_number(prepared.scores.num_top),
        logprob_token_ids=list(prepared.scores.token_ids),
        num_prompt_logprobs=sent_number(prepared.scores.num_of_prompt),
        max_speculation=edge.max_speculation if request.max_speculation is None else request.max_speculation,
    )


def _require_few_stops(edge: Edge, request: GenerationRequest) -> None:
    if not (request.stop_strings or request.stop_token_ids):
        return

    settings, vocab_size = edge.settings, edge.gateway.model.vocab_size
    lists: list[tuple[str, Collection[object]]] = [
        ("stop", request.stop_strings),
        ("stop_token_ids", request.stop_token_ids),
    ]
    for name, entries in lists:
        if len(entries) > settings.max_stop_strings:
            raise RequestError(f"{name}: at most {settings.max_stop_strings} entries are accepted", param=name)
    if any(token_id >= vocab_size for token_id in request.stop_token_ids):
        raise RequestError(f"stop_token_ids: token ids must be below {vocab_size}", param="stop_token_ids")
    if any(not 1 <= len(stop) <= settings.max_stop_chars for stop in request.stop_strings):
        raise RequestError(f"stop: an entry must have 1 to {settings.max_stop_chars} characters", param="stop")


def _require_spaces(edge: Edge, prepared: Prepared) -> None:
    name = "spaces_between_special_tokens"
    shows_without = not (prepared.received.request.spaces_between_special_tokens or prepared.hides_special)
    if shows_without and edge.tokenizer.spaces_special:
        text = f"{name}: the tokenizer of this model always writes them; leave it out, or skip special tokens"
        raise RequestError(text, param=name, code="unsupported_parameter")


def _require_few_choices(edge: Edge, request: GenerationRequest, num_prompts: int) -> None:
    if request.n > edge.settings.max_choices:
        raise RequestError(f"n: at most {edge.settings.max_choices} choices are accepted", param="n")
    limit = edge.gateway.status.max_unfinished_requests
    if 0 < limit < request.n * num_prompts:
        text = f"n: times the number of prompts is more than the {limit} requests that this server can run at a time"
        raise RequestError(text, param="n")


def _require_a_token(edge: Edge, request: GenerationRequest, sampling: SamplingFields) -> None:
    model = edge.gateway.model
    end_ids = [*request.stop_token_ids, *(() if request.ignore_eos else model.eos_ids)]
    require_a_token(sampling, end_ids, model.vocab_size)
