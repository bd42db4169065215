"""One request's generation: submitting it, reading its choices side by side, and its end whatever happens."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from secrets import token_hex
from typing import NamedTuple

import anyio

from histrio.contracts.gateway import Submission
from histrio.errors import HistrioError, RequestError
from histrio_api.answer.answer_tokens import AnswerTokens
from histrio_api.answer.choice import Choice
from histrio_api.answer.late_parts import LateParts
from histrio_api.answer.logprobs import ChoiceLogprobs
from histrio_api.answer.prompt_logprobs import PromptScores
from histrio_api.answer.reasoning_count import ReasoningCount
from histrio_api.errors import GenerationFailed
from histrio_api.keys.limits import KeyLimits, Reservation
from histrio_api.request.prepared import Prepared
from histrio_api.request.prompts import Prompt
from histrio_api.request.scores import is_whole, num_vocabularies
from histrio_api.request.submissions import submissions
from histrio_api.request_log import log_finished
from histrio_api.schemas.usage import CompletionTokensDetails, PromptTokensDetails, Usage
from histrio_api.shared.edge import BYTES_PER_SCORE, Edge
from histrio_api.usage.counts import Counts

__all__ = ["Generation", "Timings", "run_choices", "start_generation"]


class Timings(NamedTuple):
    """Seconds that the parts of a request took."""

    reading_s: float
    """From its arrival until its prompts were submitted."""
    prompt_s: float
    """From there to the first token: waiting for its turn is a part of it."""
    answer_s: float
    """From there on."""

    @property
    def total_s(self) -> float:
        """All of them."""
        return self.reading_s + self.prompt_s + self.answer_s


ASSUMED_ANSWER_TOKENS = 1024
"""Of an answer without `max_tokens`: what its API key must have left for it to begin. What it takes is counted."""


class Generation:
    """All choices of one request. `close()` must be called however the request ends."""

    def __init__(self, edge: Edge, request_id: str, arrived_s: float, key: str) -> None:
        self.id = request_id
        self.created = int(time.time())
        self.choices: list[Choice] = []
        self.num_prompt_tokens = 0
        self.num_cached_tokens = 0
        """Of the prompts, from the prefix cache. The `n` choices of one prompt count for one."""
        self.num_drafted_tokens = 0
        """Drafted tokens, of all choices."""
        self.num_accepted_tokens = 0
        """Of those, how many came true."""
        self.late = LateParts(edge.score_threads)
        """Of its answer."""
        self.edge = edge
        self._num_score_bytes = 0
        self._metrics = edge.metrics
        self._arrived_s = arrived_s
        self._key = key
        self._submitted_s = time.perf_counter()
        self._first_token_s: float | None = None
        self._failure = "cancelled"
        """How choices ended that have no reason of their own."""
        self._is_closed = False
        self._reservation: Reservation | None = None
        """Of its API key's tokens."""

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        num_completion_tokens = self._num_completion_tokens
        return Usage(
            prompt_tokens=self.num_prompt_tokens,
            completion_tokens=num_completion_tokens,
            total_tokens=self.num_prompt_tokens + num_completion_tokens,
            prompt_tokens_details=PromptTokensDetails(self.num_cached_tokens),
            completion_tokens_details=CompletionTokensDetails(
                self.num_accepted_tokens,
                self.num_drafted_tokens - self.num_accepted_tokens,
                sum([choice.num_reasoning_tokens for choice in self.choices]),
            ),
        )

    @property
    def _num_completion_tokens(self) -> int:
        return sum([choice.num_tokens for choice in self.choices])

    @property
    def timings(self) -> Timings:
        """Up to now."""
        now_s, first_s = time.perf_counter(), self._first_token_s
        began_s = now_s if first_s is None else self._arrived_s + first_s
        return Timings(self._submitted_s - self._arrived_s, began_s - self._submitted_s, now_s - began_s)

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
                self.num_cached_tokens += delta.extras.num_cached_tokens
            self.num_drafted_tokens += delta.extras.num_drafted
            self.num_accepted_tokens += delta.extras.num_accepted
            text = choice.take(delta)
            if not has_begun:
                text, has_begun = await choice.begin(delta) + text, True
            if choice.finish_reason:
                choice.elapsed_s = time.perf_counter() - self._arrived_s
                await show(choice, text)
                return
            if text:
                await show(choice, text)

        raise GenerationFailed("generation ended without a reason")

    def __enter__(self) -> Generation:
        """What goes wrong in the block leaves nothing running that is generated for no client."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        if kind is not None:
            self.close()

    def reserve(self, limits: KeyLimits, num_tokens: int) -> None:
        """Take the tokens from the limits of the request's API key until it is known how many were needed. Raises
        `RateLimited`."""
        self._reservation = limits.reserve(num_tokens)

    def hold_scores(self, num_vocabularies: int) -> None:
        """Take the room of so many vocabularies' log probabilities until it is closed. Raises `Overloaded`."""
        num_bytes = BYTES_PER_SCORE * self.edge.gateway.model.vocab_size * num_vocabularies
        self.edge.score_room.take(num_bytes)
        self._num_score_bytes = num_bytes

    def close(self, *, is_sent: bool = True) -> None:
        """Cancel what still runs, and count the request if it was taken. Safe to call twice, and to be done again once
        the answer is sent where it was not."""
        if is_sent:
            self.edge.score_room.give_back(self._num_score_bytes)
            self._num_score_bytes = 0
        if self._reservation is not None:
            self._reservation.settle(self.num_prompt_tokens + self._num_completion_tokens)
            self._reservation = None
        for choice in self.choices:
            if not choice.finish_reason:
                choice.stream.cancel()
        if self.choices and not self._is_closed:
            self._is_closed = True
            self._count()

    def _count(self) -> None:
        elapsed_s = time.perf_counter() - self._arrived_s
        self._metrics.count_finished(self.num_prompt_tokens, self._num_completion_tokens, elapsed_s)
        if self.edge.usage is not None:
            self.edge.count_usage(self._key, _counts(self.usage))
        if self.edge.settings.log_requests:
            states = {choice.finish_reason or self._failure for choice in self.choices}
            log_finished(self.id, self.edge.gateway.model.id, self.usage, states, (self._first_token_s, elapsed_s))

    def fail(self, error: Exception) -> None:
        """What is not finished ended by this error."""
        self._failure = (isinstance(error, HistrioError) and error.code) or "internal_error"


def _counts(usage: Usage) -> Counts:
    cached = usage.prompt_tokens_details.cached_tokens
    reasoning = usage.completion_tokens_details.reasoning_tokens
    return Counts(1, usage.prompt_tokens, cached, usage.completion_tokens, reasoning)


def start_generation(edge: Edge, prepared: Prepared, id_prefix: str) -> Generation:
    """Submit every prompt: all or none. Raises `RequestError`, `Overloaded`, `EngineError`."""
    received = prepared.received
    generation = Generation(edge, f"{id_prefix}{token_hex(16)}", received.arrived_s, received.key)
    ordered = submissions(edge, prepared, generation.id)
    with generation:
        generation.reserve(edge.keys.limits_of(received.key), _num_expected_tokens(prepared, ordered))
        generation.hold_scores(_num_vocabularies(edge, prepared, ordered))
        for prompt, submission in zip(prepared.prompts, ordered, strict=True):
            _submit(generation, prepared, prompt, submission)
        for choice in generation.choices:
            _decode(generation, prepared, choice)
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


def _num_expected_tokens(prepared: Prepared, ordered: Sequence[Submission]) -> int:
    """Of prompts and answers. An answer that may fill the context rarely does."""
    bound = ASSUMED_ANSWER_TOKENS if prepared.num_wanted_tokens is None else None
    return sum(
        len(each.ids) + each.num_choices * min(each.max_new_tokens, bound or each.max_new_tokens) for each in ordered
    )


def _num_vocabularies(edge: Edge, prepared: Prepared, ordered: Sequence[Submission]) -> int:
    """Tokens whose log probabilities come with those of all others. Raises `RequestError` for more than may be held."""
    found = 0
    for each in ordered:
        # The choices of a prompt share what is told of the prompt.
        found += num_vocabularies(prepared.scores, len(each.ids), each.num_choices * each.max_new_tokens)
    most = edge.settings.max_vocabulary_scores // edge.gateway.model.vocab_size
    if found > most:
        param = prepared.scores.top_param if is_whole(prepared.scores) else "prompt_logprobs"
        text = f"{param}: the whole vocabulary is told beside at most {most} tokens, and here may be {found}; give"
        raise RequestError(f"{text} a smaller max_tokens, or have max-vocabulary-scores of [api] raised", param=param)
    return found


def _submit(generation: Generation, prepared: Prepared, prompt: Prompt, submission: Submission) -> None:
    edge = generation.edge
    request = prepared.received.request
    ending = frozenset(submission.ask.end_ids)
    if request.include_stop_str_in_output:
        ending -= frozenset(request.stop_token_ids)
    scores = None
    if prepared.scores.num_of_prompt is not None:
        scores = PromptScores(edge.tokenizer, prompt, prepared.scores.num_reported, generation.late)
    for nth, stream in enumerate(edge.gateway.submit(submission)):
        choice = Choice(len(generation.choices), prompt, stream, ending, counts_prompt=nth == 0)
        choice.scores = scores
        choice.echoes = prepared.echoes
        choice.has_answer = prepared.num_wanted_tokens != 0
        if prepared.keeps_ids:
            choice.keep_ids()
        generation.choices.append(choice)
    generation.num_prompt_tokens += len(prompt.ids)


def _decode(generation: Generation, prepared: Prepared, choice: Choice) -> None:
    """Tell the choice how its ids become text."""
    edge = generation.edge
    continues = choice.prompt.ids if prepared.continues_prompt else ()
    detokenizer = edge.tokenizer.detokenizer(skip_special=prepared.hides_special, continues=continues)
    logprobs = None
    if prepared.scores.num_top is not None:
        num_prompt_chars = len(choice.prompt.text) if prepared.echoes else 0
        logprobs = ChoiceLogprobs(edge.tokenizer, prepared.scores, generation.late, num_prompt_chars)
        if prepared.scores.leaves_out_reasoning and prepared.parts.may_reason:
            logprobs.answer_tokens = AnswerTokens(prepared.parts)
    if prepared.parts.may_reason:
        choice.reasoning = ReasoningCount(prepared.parts)
    request = prepared.received.request
    choice.decode_with(detokenizer, request.stop_strings, logprobs, shows_stop=request.include_stop_str_in_output)
