"""Engine: a whole engine behind batching's mailbox. Requests pass through; the engine schedules and caches by itself.

Its threads tell tokens whenever they like. They go through the actor's own mailbox, so that all of its state belongs to
one thread, and on to admission once per flush.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from histrio.actors.mailbox import Actor
from histrio.actors.refs import ADMISSION, ENGINE, METRICS, ROOT, Tell, ToEngine, refuse
from histrio.contracts.backend import StageSpec
from histrio.contracts.engine_backend import EngineFactory
from histrio.errors import EngineError, RequestError
from histrio.messages import (
    Allocated,
    Ask,
    Cancel,
    ChildFailed,
    EngineOpened,
    Generate,
    Loading,
    Start,
    Stats,
    Stop,
    TokenRow,
    Tokens,
)

__all__ = ["EngineActor"]


_STATS_EVERY_S = 1.0
_RUNS = 2**40
"""The engine sees `epoch * _RUNS + request`: what comes late of a request is not taken for its replay's."""


class EngineActor(Actor[ToEngine]):
    """Keeps which requests are unfinished, and nothing else: tokens belong to admission, the rest to the engine."""

    def __init__(
        self, spec: StageSpec, factory: EngineFactory, tell: Tell, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._spec = spec
        self._backend = factory.create()
        self._tell = tell
        self._clock = clock
        self._epoch = 0
        self._is_closed = False
        self._max_requests = 0
        self._max_sequence_length = 0
        self._unfinished: set[int] = set()
        self._rows: list[TokenRow] = []
        """Rows that admission is told at the next flush."""
        self._num_submitted_tokens = 0
        self._num_generated_tokens = 0
        self._stats_due = 0.0

    def start(self) -> None:
        """Open the engine, which may take minutes; raises what it raises."""
        capacity = self._backend.open(self._spec, _Events(self._tell))
        self._tell(ROOT, EngineOpened(capacity))

    def receive(self, message: ToEngine) -> None:
        """A command of the front, or news of the engine's threads."""
        if self._is_closed:
            return
        match message:
            case Tokens(_epoch, rows):
                for row in rows:
                    self._take(row)
            case Generate():
                self._generate(message)
            case Cancel(request, _state):
                self._forget(request)
            case Start():
                self._start(message)
            case ChildFailed():
                raise EngineError(message.error)
            case Stop():
                self._is_closed = True
                self._backend.close()
            case _:
                refuse("an engine", message)

    def flush(self) -> None:
        """All new tokens to admission in one message."""
        if self._rows:
            self._tell(ADMISSION, Tokens(self._epoch, self._rows))
            self._rows = []
        if self._epoch:
            self._report()

    def _start(self, start: Start) -> None:
        """Nothing of an earlier epoch runs on: admission sends everything unfinished again."""
        for request in list(self._unfinished):
            self._forget(request)
        self._rows = []
        self._epoch = start.epoch
        self._max_requests = start.size.max_slots
        self._max_sequence_length = start.size.max_sequence_length
        self._num_submitted_tokens = self._num_generated_tokens = 0
        self._tell(ROOT, Allocated(ENGINE, start.epoch))

    def _generate(self, command: Generate) -> None:
        if not self._epoch:
            return  # of an epoch that is over

        try:
            if command.max_total_tokens > self._max_sequence_length:
                longest = self._max_sequence_length
                raise EngineError(f"the engine came back with room for {longest} tokens, which this request exceeds")
            end = command.trial_end or command.max_total_tokens
            run = self._run_of(command.request)
            ask = _with_logprobs(command.ask)
            self._backend.submit(
                msgspec.structs.replace(command, request=run, max_total_tokens=end, ask=ask, trial_end=0)
            )
        except (RequestError, EngineError) as error:
            self._rows.append(TokenRow.failed(command.request, str(error), error.code))
            return

        self._unfinished.add(command.request)
        self._num_submitted_tokens += len(command.ids)

    def _take(self, row: TokenRow) -> None:
        """Drop what belongs to a run of an earlier epoch, or to a request that has ended or was cancelled."""
        epoch, request = divmod(row.request, _RUNS)
        if epoch != self._epoch or request not in self._unfinished:
            return

        self._rows.append(msgspec.structs.replace(row, request=request))
        self._num_generated_tokens += len(row.ids)
        if row.state.is_finished:
            self._unfinished.discard(request)

    def _forget(self, request: int) -> None:
        if request in self._unfinished:
            self._unfinished.discard(request)
            self._backend.abort(self._run_of(request))

    def _run_of(self, request: int) -> int:
        return self._epoch * _RUNS + request

    def _report(self) -> None:
        """Totals and sizes to metrics, at most once a second, and once more when work has run out."""
        now = self._clock()
        if now < self._stats_due and self._unfinished:
            return

        self._stats_due = now + _STATS_EVERY_S
        num_running = min(len(self._unfinished), self._max_requests)
        values: dict[str, float] = {
            "running_sequences": num_running,
            "waiting_sequences": len(self._unfinished) - num_running,
            "submitted_tokens_total": self._num_submitted_tokens,
            "generated_tokens_total": self._num_generated_tokens,
        }
        self._tell(METRICS, Stats(self._epoch, values))


def _with_logprobs(ask: Ask) -> Ask:
    """Engines are asked for log probabilities by a field of their own."""
    if ask.num_logprobs is None:
        return ask
    return msgspec.structs.replace(ask, sampling=ask.sampling | {"logprobs": True})


class _Events:
    """What the engine's threads call: every event is a message, so that they share nothing with the actor."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def progress(self, fraction: float, text: str) -> None:
        """Tell root, as a stage does."""
        self._tell(ROOT, Loading(0, fraction, text))

    def tokens(self, rows: list[TokenRow]) -> None:
        """Tell the actor itself; the rows say to which epoch they belong."""
        self._tell(ENGINE, Tokens(0, rows))

    def failed(self, error: str) -> None:
        """The actor raises it on its own thread."""
        self._tell(ENGINE, ChildFailed(ENGINE, error))
