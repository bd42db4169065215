"""One request's generation: submitting it, reading its choices side by side, and its end whatever happens."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import anyio

from histrio.contracts.gateway import Submission
from histrio.errors import HistrioError, RequestError
from histrio_api.answer.choice import Choice
from histrio_api.answer.logprobs import ChoiceLogprobs
from histrio_api.answer.prompt_logprobs import PromptScores
from histrio_api.errors import GenerationFailed
from histrio_api.request.contradictions import require_a_token
from histrio_api.request.prompts import Prompt, num_new_tokens
from histrio_api.request.received import Received
from histrio_api.request.scores import require_few_scores
from histrio_api.request_log import log_finished
from histrio_api.schemas.chat import ChatRequest
from histrio_api.schemas.completions import CompletionRequest
from histrio_api.schemas.generation import GenerationRequest
from histrio_api.schemas.usage import CompletionTokensDetails, PromptTokensDetails, Usage
from histrio_api.shared.edge import Edge

__all__ = ["Generation", "run_choices", "start_generation"]

_UINT64 = 2**64 - 1


class Generation:
    """All choices of one request. `close()` must be called however the request ends."""

    def __init__(self, edge: Edge, id_prefix: str, arrived_s: float) -> None:
        self.id = f"{id_prefix}-{uuid4().hex}"
        self.created = int(time.time())
        self.choices: list[Choice] = []
        self.num_prompt_tokens = 0
        self.num_cached_tokens = 0
        """Of the prompts, from the prefix cache. The `n` choices of one prompt count for one."""
        self.num_drafted_tokens = 0
        """Guessed ahead, for all choices."""
        self.num_accepted_tokens = 0
        """Of those, how many came true."""
        self.edge = edge
        self._metrics = edge.metrics
        self._arrived_s = arrived_s
        self._first_token_s: float | None = None
        self._failure = "cancelled"
        """How choices ended that have no reason of their own."""
        self._is_closed = False

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        num_completion_tokens = sum(choice.num_tokens for choice in self.choices)
        return Usage(
            prompt_tokens=self.num_prompt_tokens,
            completion_tokens=num_completion_tokens,
            total_tokens=self.num_prompt_tokens + num_completion_tokens,
            prompt_tokens_details=PromptTokensDetails(self.num_cached_tokens),
            completion_tokens_details=CompletionTokensDetails(
                self.num_accepted_tokens, self.num_drafted_tokens - self.num_accepted_tokens
            ),
        )

    @property
    def num_scored_tokens(self) -> int:
        """How many tokens, of prompts and answers, have log probabilities."""
        scored = [choice for choice in self.choices if choice.logprobs is not None or choice.scores is not None]
        return sum(len(choice.prompt.ids) + choice.num_tokens for choice in scored)

    @property
    def is_recovering(self) -> bool:
        """Whether a choice waits for its replica to be replaced."""
        return any(choice.stream.is_recovering for choice in self.choices if not choice.finish_reason)

    async def read(self, choice: Choice, show: Callable[[Choice, str], Awaitable[None]]) -> None:
        """Show every piece of a choice's text; the last call of `show` has the choice's `finish_reason` set."""
        metrics, last, has_begun = self._metrics, 0.0, False
        async for delta in choice.stream:
            now = time.perf_counter()
            if num_tokens := len(delta.ids):
                if last:
                    metrics.inter_token.observe((now - last) / num_tokens, num_tokens)
                else:
                    metrics.first_token.observe(now - self._arrived_s)
                    self._first_token_s = self._first_token_s or now - self._arrived_s
                last = now
            if choice.counts_prompt:
                self.num_cached_tokens += delta.num_cached_tokens
            self.num_drafted_tokens += delta.num_drafted
            self.num_accepted_tokens += delta.num_accepted
            text = choice.take(delta)
            if not has_begun:
                text, has_begun = await choice.begin(delta) + text, True
            if choice.finish_reason:
                await show(choice, text)
                return
            if text:
                await show(choice, text)

        raise GenerationFailed("generation ended without a reason")

    @contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """What goes wrong before its answer is read leaves nothing running that is generated for no client."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Cancel what still runs, and count the request if it was taken. Safe to call twice."""
        for choice in self.choices:
            if not choice.finish_reason:
                choice.stream.cancel()
        if self.choices and not self._is_closed:
            self._is_closed = True
            usage = self.usage
            elapsed_s = time.perf_counter() - self._arrived_s
            self._metrics.count_finished(usage.prompt_tokens, usage.completion_tokens, elapsed_s)
            if self.edge.settings.log_requests:
                states = {choice.finish_reason or self._failure for choice in self.choices}
                log_finished(self.id, self.edge.gateway.model.id, usage, states, (self._first_token_s, elapsed_s))

    def fail(self, error: Exception) -> None:
        """What is not finished ended by this error."""
        self._failure = (isinstance(error, HistrioError) and error.code) or "internal_error"


def start_generation(edge: Edge, received: Received[Any], prompts: Sequence[Prompt], wanted: int | None) -> Generation:
    """Submit every prompt: all or none; `wanted` new tokens each, or as many as fit. With 0, prompts are only scored.

    Raises `RequestError`, `Overloaded`, `EngineError`.
    """
    request: GenerationRequest = received.request
    stops = _checked_stops(edge, request)
    if request.n > edge.settings.max_choices:
        raise RequestError(f"n: at most {edge.settings.max_choices} choices are accepted", param="n")
    if 0 < edge.gateway.status.max_unfinished < request.n * len(prompts):
        limit = edge.gateway.status.max_unfinished
        text = f"n: times the number of prompts is more than the {limit} requests that this server can run at a time"
        raise RequestError(text, param="n")
    if request.stream_options.include_usage and not request.stream:
        raise RequestError("stream_options: only allowed when stream is true", param="stream_options")

    edge.gateway.check_sampling(received.sampling)
    _require_a_token(edge, received)
    is_chat = isinstance(request, ChatRequest)
    param = "messages" if is_chat else "prompt"
    # A prompt is scored by a request for one token, which is then left out.
    num_wanted = 1 if wanted == 0 else wanted
    num_prompt_tokens = sum(len(prompt.ids) for prompt in prompts)
    require_few_scores(edge.settings.max_prompt_scores, request, received.num_prompt_logprobs, num_prompt_tokens)
    rooms = [num_new_tokens(edge.gateway.model, prompt, num_wanted, param) for prompt in prompts]
    generation = Generation(edge, "chatcmpl" if is_chat else "cmpl", received.arrived_s)
    with generation.closed_on_error():
        for prompt, room in zip(prompts, rooms, strict=True):
            _submit(generation, received, prompt, room)
        for choice in generation.choices:
            choice.has_answer = wanted != 0
            _prepare(edge, received, choice, stops)
    return generation


async def run_choices(generation: Generation, show: Callable[[Choice, str], Awaitable[None]]) -> None:
    """Read all choices side by side. The first error ends them all and is raised as it is."""
    try:
        await _run_choices(generation, show)
    except Exception as error:
        generation.fail(error)
        raise


async def _run_choices(generation: Generation, show: Callable[[Choice, str], Awaitable[None]]) -> None:
    if len(generation.choices) == 1:
        await generation.read(generation.choices[0], show)
        return

    errors: list[Exception] = []
    async with anyio.create_task_group() as tasks:

        async def read(choice: Choice) -> None:
            try:
                await generation.read(choice, show)
            except Exception as error:
                errors.append(error)
                tasks.cancel_scope.cancel()

        for choice in generation.choices:
            tasks.start_soon(read, choice)
    if errors:
        raise errors[0]


def _submission(generation: Generation, received: Received[Any], prompt: Prompt, max_new_tokens: int) -> Submission:
    model, request = generation.edge.gateway.model, received.request
    sampling, num_logprobs = model.default_sampling | received.sampling, received.num_top_logprobs
    if num_logprobs is not None and model.engine:
        sampling, num_logprobs = sampling | {"logprobs": True}, None
    return Submission(
        ids=prompt.ids,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        eos_ids=[] if request.ignore_eos else model.eos_ids,
        stop_ids=request.stop_token_ids,
        seed=None if request.seed is None else request.seed & _UINT64,
        num_choices=request.n,
        grammar=received.grammar,
        priority=request.priority,
        cache_salt=request.cache_salt,
        num_logprobs=num_logprobs,
        num_prompt_logprobs=received.num_prompt_logprobs,
        max_speculation=request.max_speculation,
        id=generation.id,
        key=received.key,
        user=received.user,
    )


def _require_a_token(edge: Edge, received: Received[Any]) -> None:
    """An engine backend has rules of its own for what its fields mean together."""
    model, request = edge.gateway.model, received.request
    if not model.engine:
        end_ids = [*request.stop_token_ids, *(() if request.ignore_eos else model.eos_ids)]
        require_a_token(model.default_sampling | received.sampling, end_ids, model.vocab_size)


def _prepare(edge: Edge, received: Received[Any], choice: Choice, stops: Sequence[str]) -> None:
    """Tell the choice how its ids become an answer."""
    request: GenerationRequest = received.request
    continues = () if isinstance(request, ChatRequest) else choice.prompt.ids
    detokenizer = edge.tokenizer.detokenizer(skip_special=request.skip_special_tokens, continues=continues)
    choice.echoes = isinstance(request, CompletionRequest) and request.echo
    logprobs = None
    if received.num_top_logprobs is not None:
        num_prompt_chars = len(choice.prompt.text) if choice.echoes else 0
        logprobs = ChoiceLogprobs(edge.tokenizer, received.num_top_logprobs, num_prompt_chars)
    choice.decode_with(detokenizer, stops, logprobs)


def _submit(generation: Generation, received: Received[Any], prompt: Prompt, max_new_tokens: int) -> None:
    edge = generation.edge
    submission = _submission(generation, received, prompt, max_new_tokens)
    ending = frozenset(submission.eos_ids).union(submission.stop_ids)
    scores = None
    if received.num_prompt_logprobs is not None:
        scores = PromptScores(edge.tokenizer, prompt, received.request.prompt_logprobs)
    for nth, stream in enumerate(edge.gateway.submit(submission)):
        choice = Choice(len(generation.choices), prompt, stream, ending, counts_prompt=nth == 0)
        choice.scores = scores
        generation.choices.append(choice)
    generation.num_prompt_tokens += len(prompt.ids)


def _checked_stops(edge: Edge, request: GenerationRequest) -> list[str]:
    stops = [request.stop] if isinstance(request.stop, str) else request.stop
    limit = edge.settings.max_stop_strings
    for name, entries in (("stop", stops), ("stop_token_ids", request.stop_token_ids)):
        if len(entries) > limit:
            raise RequestError(f"{name}: at most {limit} entries are accepted", param=name)

    vocab_size = edge.gateway.model.vocab_size
    if any(token_id >= vocab_size for token_id in request.stop_token_ids):
        raise RequestError(f"stop_token_ids: token ids must be below {vocab_size}", param="stop_token_ids")

    max_chars = edge.settings.max_stop_chars
    if any(not 1 <= len(stop) <= max_chars for stop in stops):
        raise RequestError(f"stop: an entry must have 1 to {max_chars} characters", param="stop")
    return stops
