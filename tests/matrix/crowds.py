"""Random crowds of requests that get in each other's way, and what became of each."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from histrio.backend import BackendFactory
from histrio.gateway import Submission
from histrio.messages import RequestState, TokenLogprobs
from histrio.sampling import Sampler
from histrio.testing.harness import Harness, HarnessOptions, serving
from histrio.testing.wait import eventually_async
from histrio_samplers.plugin import SAMPLERS

__all__ = ["ALL_SAMPLERS", "Answer", "Crowd", "Run", "differences", "make_crowd", "play", "play_alone"]

ALL_SAMPLERS: list[type[Sampler]] = list(SAMPLERS)
_PATIENCE_S = 30.0
_CLOSE = 2e-4
"""Log probabilities are sums over a vocabulary, which another batch adds up in another order."""

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
    """Each choice is cancelled after so many tokens; None: heard to its end."""


Crowd = Sequence[Request]


@dataclass
class Answer:
    """One choice, as its client heard it."""

    tokens: list[int] = field(default_factory=list)
    state: RequestState = RequestState.WAITING
    num_cached_tokens: int = 0
    logprobs: list[float] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)


@dataclass
class Run:
    """All answers by (request, choice), and the engine's totals."""

    answers: dict[tuple[int, int], Answer]
    totals: dict[str, float]
    num_replays: int = 0

    @property
    def num_cached_tokens(self) -> int:
        """Of all prompts, without what a choice took from the first one of its request."""
        return sum(answer.num_cached_tokens for (_, choice), answer in self.answers.items() if choice == 0)


def make_crowd(seed: int, num_ids: int, *, num_requests: int = 16, num_tokens: int = 24) -> Crowd:
    """Requests over ids 3 … num_ids - 1. Prefixes are shared, some prompts are equal, some ask for several choices."""
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
            sampling=KINDS[index % len(KINDS)],
            eos_ids=[1],
            stop_ids=_ids(rng, num_ids, num_ids // 20) if rng.random() < 0.3 else [],
            seed=rng.getrandbits(40),
            num_choices=rng.choice([1, 1, 1, 2, 4]),
            priority=rng.choice([0, 0, 1, 2]),
            cache_salt=rng.choice(["", "", "", "mine"]),
            num_logprobs=rng.choice([None, None, None, 0, 2]),
            num_prompt_logprobs=None,
        )
        after = rng.randrange(index) if index and rng.random() < 0.5 else None
        crowd.append(Request(submission, after, rng.randint(1, 8) if rng.random() < 0.15 else None))
    return crowd


async def play(
    model: Path, factory: BackendFactory, crowd: Crowd, options: HarnessOptions, cuts: Sequence[int] = ()
) -> Run:
    """The whole crowd in one engine."""
    async with serving(model, factory, samplers=ALL_SAMPLERS, cuts=cuts, options=options) as harness:
        answers: dict[tuple[int, int], Answer] = {}
        has_begun = [anyio.Event() for _ in crowd]
        with anyio.move_on_after(_PATIENCE_S) as patience:
            async with anyio.create_task_group() as tasks:
                for index, request in enumerate(crowd):
                    waits_for = None if request.after is None else has_begun[request.after]
                    tasks.start_soon(_ask, harness, request, waits_for, answers, has_begun[index], index)
        assert not patience.cancelled_caught, f"nothing comes any more after {_PATIENCE_S} s: the engine stands still"
        return await _ended(harness, answers)


async def play_alone(model: Path, factory: BackendFactory, crowd: Crowd, options: HarnessOptions) -> Run:
    """One request after the other, heard to its end: nothing to share, nobody beside it."""
    async with serving(model, factory, samplers=ALL_SAMPLERS, options=options) as harness:
        answers: dict[tuple[int, int], Answer] = {}
        for index, request in enumerate(crowd):
            patient = Request(request.submission, None, None)
            await _ask(harness, patient, None, answers, anyio.Event(), index)
        return await _ended(harness, answers)


def differences(crowd: Crowd, run: Run, alone: Run) -> list[str]:
    """Where an answer of the crowd is not the one that the request got alone."""
    found = []
    for (index, choice), wanted in alone.answers.items():
        got = run.answers[index, choice]
        num_tokens = len(wanted.tokens)
        is_cancelled = got.state is RequestState.CANCELLED and crowd[index].num_kept is not None
        if is_cancelled:
            num_tokens = min(len(got.tokens), num_tokens)
        if got.tokens != wanted.tokens[:num_tokens]:
            found.append(f"request {index}, choice {choice}: {got.tokens} instead of {wanted.tokens[:num_tokens]}")
        elif not is_cancelled and got.state is not wanted.state:
            found.append(f"request {index}, choice {choice}: ends as {got.state.name} instead of {wanted.state.name}")
        elif not _are_close(got, wanted, num_tokens):
            found.append(f"request {index}, choice {choice}: other log probabilities")
    return found


async def _ask(
    harness: Harness,
    request: Request,
    waits_for: anyio.Event | None,
    answers: dict[tuple[int, int], Answer],
    has_begun: anyio.Event,
    index: int,
) -> None:
    """Submit when it is time, and hear all choices."""
    if waits_for is not None:
        await waits_for.wait()
    async with anyio.create_task_group() as tasks:
        for choice, stream in enumerate(harness.gateway.submit(request.submission)):
            answers[index, choice] = answer = Answer()
            tasks.start_soon(_hear, stream, answer, request.num_kept, has_begun)


async def _hear(stream: Any, answer: Answer, num_kept: int | None, has_begun: anyio.Event) -> None:
    async for delta in stream:
        answer.tokens += delta.ids
        answer.state = delta.state
        answer.logprobs += delta.logprobs
        answer.prompt_logprobs += delta.prompt_logprobs
        answer.num_cached_tokens += delta.num_cached_tokens
        has_begun.set()
        if num_kept is not None and len(answer.tokens) >= num_kept and not delta.state.is_finished:
            stream.cancel()
            answer.state = RequestState.CANCELLED
            return


async def _ended(harness: Harness, answers: dict[tuple[int, int], Answer]) -> Run:
    """The run, once the engine has told its last totals."""
    status = harness.gateway.status
    await eventually_async(lambda: not status.num_unfinished and status.gauges.get("running_sequences") == 0)
    return Run(answers, dict(status.counters), status.num_replays)


def _are_close(got: Answer, wanted: Answer, num_tokens: int) -> bool:
    ours = [*got.logprobs, *(each.logprob for each in got.prompt_logprobs)]
    theirs = [*wanted.logprobs[:num_tokens], *(each.logprob for each in wanted.prompt_logprobs)]
    return len(ours) == len(theirs) and all(abs(a - b) < _CLOSE for a, b in zip(ours, theirs, strict=True))


def _ids(rng: random.Random, num_ids: int, count: int) -> list[int]:
    return [rng.randrange(3, num_ids) for _ in range(count)]
