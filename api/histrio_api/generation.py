"""One request's generation: its choices, how their tokens become text, and its end whatever happens."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from uuid import uuid4

import anyio

from histrio.errors import EngineError, RequestError, RequestTimeout
from histrio.gateway import Delta, Submission, TokenStream
from histrio.messages import RequestState, SamplingFields
from histrio_api.edge import Edge
from histrio_api.errors import GenerationFailed
from histrio_api.prompts import Prompt, num_new_tokens
from histrio_api.schemas import GenerationRequest, Usage
from histrio_api.text.detokenizer import Detokenizer
from histrio_api.text.stops import StopStrings

__all__ = ["Choice", "Generation", "run_choices", "start_generation"]

_UINT64 = 2**64 - 1

TIME_LIMIT_TEXT = "time limit"
"""In the reason of a request that admission ended because its time was over."""


class Choice:
    """One answer: takes deltas of ids, gives pieces of text."""

    __slots__ = ("_detokenizer", "_ending", "_stops", "finish_reason", "index", "num_tokens", "prompt", "stream")

    def __init__(self, index: int, prompt: Prompt, stream: TokenStream, ending: frozenset[int]) -> None:
        self.index = index
        self.prompt = prompt
        self.stream = stream
        self.num_tokens = 0
        self.finish_reason = ""
        """"stop" or "length" once the last piece was taken."""
        self._ending = ending
        self._detokenizer: Detokenizer
        self._stops: StopStrings | None = None

    def decode_with(self, detokenizer: Detokenizer, stops: Sequence[str]) -> None:
        """Set how ids become text; called once, before the first delta."""
        self._detokenizer = detokenizer
        self._stops = StopStrings(stops) if stops else None

    def take(self, delta: Delta) -> str:
        """The text a delta adds; sets `finish_reason` with the last. Raises `EngineError` if generation failed."""
        state = delta.state
        if state is RequestState.ERROR:
            raise _error_of(delta)
        if state is RequestState.CANCELLED:
            raise EngineError("the server stopped this request; try again")

        ids = delta.ids
        if ids and ids[-1] in self._ending:
            # The id that ends a text is counted, but is no part of it.
            self.num_tokens += 1
            ids = ids[:-1]
        if self._stops is not None:
            return self._take_until_stop(ids, self._stops, state)

        self.num_tokens += len(ids)
        text = self._detokenizer.push(ids)
        if state.is_finished:
            self.finish_reason = _finish_reason(state)
            text += self._detokenizer.flush()
        return text

    def _take_until_stop(self, ids: list[int], stops: StopStrings, state: RequestState) -> str:
        """Token by token, so that the count of tokens does not depend on how they were grouped into deltas."""
        pieces: list[str] = []
        for token_id in ids:
            self.num_tokens += 1
            pieces.append(stops.push(self._detokenizer.push((token_id,))))
            if stops.is_stopped:
                break

        if state.is_finished and not stops.is_stopped:
            pieces.append(stops.push(self._detokenizer.flush()))
            pieces.append(stops.flush())
        if stops.is_stopped:
            self.finish_reason = "stop"
            self.stream.cancel(RequestState.FINISHED_STOP)
        elif state.is_finished:
            self.finish_reason = _finish_reason(state)
        return "".join(pieces)


class Generation:
    """All choices of one request. `close()` must be called however the request ends."""

    def __init__(self, edge: Edge, id_prefix: str) -> None:
        self.id = f"{id_prefix}-{uuid4().hex}"
        self.created = int(time.time())
        self.choices: list[Choice] = []
        self.num_prompt_tokens = 0
        self._metrics = edge.metrics
        self._started = time.perf_counter()
        self._is_closed = False

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        num_completion_tokens = sum(choice.num_tokens for choice in self.choices)
        return Usage(self.num_prompt_tokens, num_completion_tokens, self.num_prompt_tokens + num_completion_tokens)

    @property
    def is_recovering(self) -> bool:
        """Whether a choice waits for its replica to be replaced."""
        return any(choice.stream.is_recovering for choice in self.choices if not choice.finish_reason)

    async def read(self, choice: Choice, show: Callable[[Choice, str], Awaitable[None]]) -> None:
        """Show every piece of a choice's text; the last call of `show` has the choice's `finish_reason` set."""
        metrics, last = self._metrics, self._started
        histogram = metrics.first_token
        async for delta in choice.stream:
            now = time.perf_counter()
            if num_tokens := len(delta.ids):
                histogram.observe((now - last) / num_tokens, num_tokens if histogram is metrics.inter_token else 1)
                histogram, last = metrics.inter_token, now
            text = choice.take(delta)
            if choice.finish_reason:
                await show(choice, text)
                return
            if text:
                await show(choice, text)

        raise GenerationFailed("generation ended without a reason")

    def close(self) -> None:
        """Cancel what still runs, and count the request. Safe to call twice."""
        for choice in self.choices:
            if not choice.finish_reason:
                choice.stream.cancel()
        if not self._is_closed:
            self._is_closed = True
            usage = self.usage
            elapsed_s = time.perf_counter() - self._started
            self._metrics.count_finished(usage.prompt_tokens, usage.completion_tokens, elapsed_s)


def start_generation(
    edge: Edge, request: GenerationRequest, sampling: SamplingFields, prompts: Sequence[Prompt], wanted: int | None
) -> Generation:
    """Submit every prompt: all or none. Raises `RequestError`, `Overloaded`, `EngineError`."""
    stops = _checked_stops(edge, request)
    if request.n > edge.settings.max_choices:
        raise RequestError(f"n: at most {edge.settings.max_choices} choices are accepted", param="n")
    if request.stream_options.include_usage and not request.stream:
        raise RequestError("stream_options: only allowed when stream is true", param="stream_options")

    edge.gateway.check_sampling(sampling)
    is_chat = hasattr(request, "messages")
    param = "messages" if is_chat else "prompt"
    rooms = [num_new_tokens(edge.gateway.model, prompt, wanted, param) for prompt in prompts]
    edge.require_accepting()

    generation = Generation(edge, "chatcmpl" if is_chat else "cmpl")
    try:
        for prompt, room in zip(prompts, rooms, strict=True):
            _add_choices(edge, generation, prompt, _submission(edge, request, sampling, prompt, room))
    except BaseException:
        generation.close()
        raise
    for choice in generation.choices:
        continues = () if is_chat else choice.prompt.ids
        detokenizer = edge.tokenizer.detokenizer(skip_special=request.skip_special_tokens, continues=continues)
        choice.decode_with(detokenizer, stops)
    return generation


async def run_choices(generation: Generation, show: Callable[[Choice, str], Awaitable[None]]) -> None:
    """Read all choices side by side. The first error ends them all and is raised as it is."""
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


def _submission(
    edge: Edge, request: GenerationRequest, sampling: SamplingFields, prompt: Prompt, max_new_tokens: int
) -> Submission:
    model = edge.gateway.model
    return Submission(
        ids=prompt.ids,
        max_new_tokens=max_new_tokens,
        sampling=model.default_sampling | sampling,
        eos_ids=[] if request.ignore_eos else model.eos_ids,
        stop_ids=request.stop_token_ids,
        seed=None if request.seed is None else request.seed & _UINT64,
        num_choices=request.n,
    )


def _add_choices(edge: Edge, generation: Generation, prompt: Prompt, submission: Submission) -> None:
    ending = frozenset(submission.eos_ids).union(submission.stop_ids)
    for stream in edge.gateway.submit(submission):
        generation.choices.append(Choice(len(generation.choices), prompt, stream, ending))
    generation.num_prompt_tokens += len(prompt.ids)


def _checked_stops(edge: Edge, request: GenerationRequest) -> list[str]:
    stops = [request.stop] if isinstance(request.stop, str) else request.stop
    limit = edge.settings.max_stop_strings
    for name, entries in (("stop", stops), ("stop_token_ids", request.stop_token_ids)):
        if len(entries) > limit:
            raise RequestError(f"{name}: at most {limit} entries are accepted", param=name)

    max_chars = edge.settings.max_stop_chars
    if any(not 1 <= len(stop) <= max_chars for stop in stops):
        raise RequestError(f"stop: an entry must have 1 to {max_chars} characters", param="stop")
    return stops


def _finish_reason(state: RequestState) -> str:
    return "length" if state is RequestState.FINISHED_MAX_LENGTH else "stop"


def _error_of(delta: Delta) -> EngineError:
    reason = delta.reason or "generation failed"
    return RequestTimeout(reason) if TIME_LIMIT_TEXT in reason else GenerationFailed(reason)
