"""Random crowds of requests that get in each other's way, and what became of each."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
from msgspec import structs

from histrio.contracts.backend import BackendFactory
from histrio.contracts.gateway import Delta, Submission, TokenStream
from histrio.contracts.sampler import Sampler
from histrio.messages import Ask, GrammarSpec, RequestState, TokenLogprobs
from histrio.testing.harness import Harness, HarnessOptions, serving
from histrio.testing.models import EOS_ID
from histrio.testing.wait import eventually_async
from histrio_grammars.backend import Llguidance
from histrio_samplers.plugin import SAMPLERS

__all__ = [
    "ALL_SAMPLERS",
    "Answer",
    "Crowd",
    "Request",
    "Run",
    "differences",
    "make_crowd",
    "play",
    "play_alone",
    "with_forms",
]

ALL_SAMPLERS: list[type[Sampler]] = list(SAMPLERS)
FORM = GrammarSpec("regex", "(x=[a-f]{1,3}; ){1,9}[0-9]{2}")
"""What follows an x or a semicolon, and the end, is forced."""
_PATIENCE_S = 30.0

KINDS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.8, "top_k": 5},
    {"temperature": 0.0, "repetition_penalty": 1.3},
    {"temperature": 1.0, "top_p": 0.7, "presence_penalty": 0.8, "frequency_penalty": 0.4},
    {"temperature": 1.2, "allowed_token_ids": [5, 6, 7]},
    {"temperature": 0.0},
    {"temperature": 0.7, "top_k": 12, "min_p": 0.02, "min_tokens": 4, "repetition_penalty": 1.1},
    {"mirostat": 2, "mirostat_tau": 2.0, "mirostat_eta": 0.7},
]
"""What the requests ask of the samplers, in turn."""


@dataclass(frozen=True)
class Request:
    """One submission, when it comes, and when its client has had enough."""

    submission: Submission
    after: int | None
    """It comes when that earlier one has begun to speak."""
    num_kept: int | None
    """Choices are cancelled after so many tokens, or before; None: heard to their end."""
    leaves_with: int | None = None
    """Its choices are cancelled at the latest when that other one begins to speak, so perhaps before they do."""
    num_leaving: int = 99
    """Of its choices, the first so many are cancelled: with 1, those that were forked from it go on."""

    def is_leaving(self, choice: int) -> bool:
        """Whether the choice may be cancelled."""
        return choice < self.num_leaving and (self.num_kept is not None or self.leaves_with is not None)


Crowd = Sequence[Request]


@dataclass
class Answer:
    """One choice, as its client heard it."""

    tokens: list[int] = field(default_factory=list)
    state: RequestState = RequestState.WAITING
    num_cached_tokens: int = 0
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)


@dataclass
class Run:
    """All answers by (request, choice), and the engine's totals."""

    answers: dict[tuple[int, int], Answer]
    totals: dict[str, float]
    num_replays: int = 0

    @property
    def num_scores(self) -> int:
        """Log probabilities of tokens of prompts."""
        return sum(len(answer.prompt_logprobs) for answer in self.answers.values())

    @property
    def num_cached_tokens(self) -> int:
        """Of all prompts, without what a choice took from the first one of its request."""
        return sum(answer.num_cached_tokens for (_, choice), answer in self.answers.items() if choice == 0)


def make_crowd(seed: int, num_ids: int, *, num_requests: int = 16, num_tokens: int = 24) -> Crowd:
    """Requests over ids 3 … num_ids - 1. Prefixes are shared, some prompts are equal, some ask for several choices.

    Some want log probabilities, of what they get or of their prompts; some clients leave in the middle, or before.
    """
    rng = random.Random(seed)
    prefixes = [_ids(rng, num_ids, 37) for _ in range(3)]
    prompts: list[list[int]] = []
    crowd = []
    for index in range(num_requests):
        is_repeat = prompts and rng.random() < 0.2
        # The second half may be the same behind another beginning.
        known = rng.choice(prefixes)[:16] + rng.choice(prefixes)[16:]
        fresh = known[: rng.choice([0, 8, 21, 32, 37])] + _ids(rng, num_ids, rng.randint(1, 9))
        prompts.append(rng.choice(prompts) if is_repeat else fresh)
        submission = Submission(
            prompts[-1],
            rng.randint(1, num_tokens),
            Ask(
                KINDS[index % len(KINDS)],
                eos_ids=[1],
                stop_ids=_ids(rng, num_ids, num_ids // 20) if rng.random() < 0.3 else [],
                seed=rng.getrandbits(40),
                priority=rng.choice([0, 0, 1, 2]),
                cache_salt=rng.choice(["", "", "", "mine"]),
                num_logprobs=rng.choice([None, None, None, 0, 2]),
                num_prompt_logprobs=rng.choice([None, None, 0, 2]),
                max_speculation=rng.choice([None, None, None, 0, 1, 2]),
            ),
            num_choices=rng.choice([1, 1, 1, 2, 4]),
        )
        after = rng.randrange(index) if index and rng.random() < 0.5 else None
        num_kept = rng.randint(1, 8) if rng.random() < 0.2 else None
        leaves_with = rng.randrange(num_requests) if rng.random() < 0.15 else None
        crowd.append(Request(submission, after, num_kept, leaves_with, rng.choice([1, 99])))
    return crowd


def _with_form(submission: Submission) -> Submission:
    ask = structs.replace(submission.ask, grammar=FORM, eos_ids=[EOS_ID], stop_ids=[])
    return structs.replace(submission, ask=ask)


def with_forms(crowd: Crowd) -> Crowd:
    """The same with a grammar for every fourth answer."""
    return [
        replace(request, submission=_with_form(request.submission)) if index % 4 == 1 else request
        for index, request in enumerate(crowd)
    ]


async def play(
    model: Path, factory: BackendFactory, crowd: Crowd, options: HarnessOptions, cuts: Sequence[int] = ()
) -> Run:
    """The whole crowd in one engine."""
    async with serving(
        model, factory, samplers=ALL_SAMPLERS, grammars=[Llguidance()], cuts=cuts, options=options
    ) as harness:
        answers: dict[tuple[int, int], Answer] = {}
        has_begun = [anyio.Event() for _ in crowd]
        with anyio.move_on_after(_PATIENCE_S) as patience:
            async with anyio.create_task_group() as tasks:
                for index in range(len(crowd)):
                    tasks.start_soon(_ask, harness, crowd, index, answers, has_begun)
        assert not patience.cancelled_caught, f"nothing comes any more after {_PATIENCE_S} s: the engine stands still"
        return await _ended(harness, answers)


async def play_alone(model: Path, factory: BackendFactory, crowd: Crowd, options: HarnessOptions) -> Run:
    """One request after the other, heard to its end: nothing to share, no other beside it."""
    async with serving(model, factory, samplers=ALL_SAMPLERS, grammars=[Llguidance()], options=options) as harness:
        answers: dict[tuple[int, int], Answer] = {}
        patient = [Request(request.submission, None, None) for request in crowd]
        for index in range(len(crowd)):
            await _ask(harness, patient, index, answers, [anyio.Event() for _ in crowd])
        return await _ended(harness, answers)


def differences(crowd: Crowd, run: Run, alone: Run, most_error: float = 0.0) -> list[str]:
    """Where an answer of the crowd is not the one that the request got alone. Log probabilities may be off by
    `most_error`."""
    found = []
    for (index, choice), expected in alone.answers.items():
        got = run.answers[index, choice]
        num_tokens = len(expected.tokens)
        is_cancelled = got.state is RequestState.CANCELLED and crowd[index].is_leaving(choice)
        if is_cancelled:
            num_tokens = min(len(got.tokens), num_tokens)
        scores = expected.prompt_logprobs if num_tokens or not is_cancelled else []
        if got.tokens != expected.tokens[:num_tokens]:
            found.append(f"request {index}, choice {choice}: {got.tokens} instead of {expected.tokens[:num_tokens]}")
        elif not is_cancelled and got.state is not expected.state:
            found.append(f"request {index}, choice {choice}: ends as {got.state.name} instead of {expected.state.name}")
        elif (error := _error(got.logprobs, expected.logprobs[:num_tokens])) > most_error:
            found.append(f"request {index}, choice {choice}: log probabilities are off by {error:.2g}")
        elif (error := _error(got.prompt_logprobs, scores)) > most_error:
            found.append(f"request {index}, choice {choice}: log probabilities of its prompt are off by {error:.2g}")
    return found


async def _ask(
    harness: Harness,
    crowd: Crowd,
    index: int,
    answers: dict[tuple[int, int], Answer],
    has_begun: Sequence[anyio.Event],
) -> None:
    """Submit when it is time, and hear all choices."""
    request = crowd[index]
    if request.after is not None:
        await has_begun[request.after].wait()
    async with anyio.create_task_group() as tasks:
        for choice, stream in enumerate(harness.gateway.submit(request.submission)):
            answers[index, choice] = answer = Answer()
            num_kept = leaves = None
            if request.is_leaving(choice):
                num_kept = request.num_kept
                leaves = None if request.leaves_with is None else has_begun[request.leaves_with]
            tasks.start_soon(_hear, stream, answer, has_begun[index], num_kept, leaves)


async def _hear(
    stream: TokenStream, answer: Answer, has_begun: anyio.Event, num_kept: int | None, leaves: anyio.Event | None
) -> None:
    """Until the stream has ended, or its client has had enough."""

    async def leave(event: anyio.Event, scope: anyio.CancelScope) -> None:
        await event.wait()
        scope.cancel()

    async with anyio.create_task_group() as tasks:
        if leaves is not None:
            tasks.start_soon(leave, leaves, tasks.cancel_scope)
        async for delta in stream:
            _take(answer, delta)
            has_begun.set()
            if num_kept is not None and len(answer.tokens) >= num_kept:
                break
        tasks.cancel_scope.cancel()
    has_begun.set()
    if not answer.state.is_finished:
        stream.cancel()
        answer.state = RequestState.CANCELLED


def _take(answer: Answer, delta: Delta) -> None:
    answer.tokens += delta.ids
    answer.state = delta.state
    answer.logprobs += delta.extras.logprobs
    answer.prompt_logprobs += delta.extras.prompt_logprobs
    answer.num_cached_tokens += delta.extras.num_cached_tokens


async def _ended(harness: Harness, answers: dict[tuple[int, int], Answer]) -> Run:
    """The run, once the engine has told its last totals."""
    status = harness.gateway.status
    await eventually_async(lambda: not status.num_unfinished and status.gauges.get("running_sequences") == 0)
    return Run(answers, dict(status.counters), status.num_replays)


def _error(got: Sequence[TokenLogprobs], expected: Sequence[TokenLogprobs]) -> float:
    """The largest difference; infinite where they are of other tokens, or not as many."""
    if [_tokens(each) for each in got] != [_tokens(each) for each in expected]:
        return math.inf

    pairs = zip(got, expected, strict=True)
    errors = (abs(a - b) for one, other in pairs for a, b in zip(_values(one), _values(other), strict=True))
    return max(errors, default=0.0)


def _tokens(each: TokenLogprobs) -> list[int]:
    return [token for token, _ in each.top]


def _values(each: TokenLogprobs) -> list[float]:
    return [each.logprob, *(logprob for _, logprob in each.top)]


def _ids(rng: random.Random, num_ids: int, count: int) -> list[int]:
    return [rng.randrange(3, num_ids) for _ in range(count)]
