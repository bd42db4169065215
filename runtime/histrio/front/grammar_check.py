"""Checking grammars in the front: each new one is compiled for trial in a process beside it, within limits.

A trial has several tries. Usual grammars end within the first, of a short slice of processor time. Those that don't
are tried again with more time, in another queue, so that usual ones wait for slices only.
"""

from __future__ import annotations

import hashlib
import logging
import signal
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import msgspec
from anyio.abc import TaskGroup

from histrio.contracts.grammar import GrammarBackend, GrammarKinds, VocabularySpec
from histrio.errors import EngineError, HistrioError, Overloaded, PluginFailed, RequestError
from histrio.front.grammar_trial import Outcome
from histrio.front.grammar_trials import TrialLimits, TrialProcess
from histrio.messages import GrammarSpec

__all__ = ["GrammarChecker"]

log = logging.getLogger(__name__)

MAX_RUNNING = (2, 1, 1)
"""First, second and third tries at a time."""
MAX_QUEUED = (256, 64, 16)
"""First, second and third tries that run or wait; further ones get 429."""
MAX_REMEMBERED = 4096
"""Grammars whose verdict is known without another trial."""
MAX_GRAMMAR_BYTES = 2**20
"""Longer ones are refused unread; grammar backends have narrower bounds of their own."""

_OWN_FAULT = {signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}
"""How a compiler ends that a grammar has brought down, or led to where memory ends."""
_INSTALLED = "histrio.front.grammar_trial:installed_backends"


class GrammarChecker:
    """Says of a grammar whether the last stage will be able to enforce it. Works while `running`."""

    def __init__(
        self,
        kinds: GrammarKinds,
        vocabulary: VocabularySpec,
        limits: TrialLimits | None = None,
        *,
        source: str = _INSTALLED,
    ) -> None:
        """`source` is `module:function`, which gives all grammar backends in the processes of trials."""
        self._kinds = kinds
        self._limits = limits or TrialLimits()
        self._processes = {
            each.name: TrialProcess(each.name, vocabulary, source, self._limits) for each in kinds.backends
        }
        self._verdicts: OrderedDict[bytes, RequestError | tuple[str, ...]] = OrderedDict()
        self._in_trial: dict[bytes, anyio.Event] = {}
        self._tasks: TaskGroup | None = None
        self._queues = [_Queue(*each) for each in zip(self._limits.tries_s, MAX_RUNNING, MAX_QUEUED, strict=False)]

    @property
    def pids(self) -> list[int]:
        """The processes of trials that live now."""
        return [each.pid for each in self._processes.values() if each.pid is not None]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Processes of trials may live while the block runs."""
        async with anyio.create_task_group() as self._tasks:
            try:
                yield
            finally:
                self._tasks.cancel_scope.cancel()

    async def warm(self) -> None:
        """Open the vocabularies, so that the first request need not wait for it."""
        assert self._tasks is not None, "a checker works while it is running"
        for process in self._processes.values():
            await process.open(self._tasks)

    def accepted(self, spec: GrammarSpec) -> tuple[str, ...] | None:
        """What `check` would return, if the grammar is known to be enforceable; no trial, no wait."""
        verdict = self._verdicts.get(_digest(spec))
        return verdict if isinstance(verdict, tuple) else None

    async def check(self, spec: GrammarSpec) -> tuple[str, ...]:
        """Places in the grammar of what its backend leaves unenforced.

        Raises `RequestError` that names the place in the grammar, `Overloaded`, or what is no fault of the request.

        Equal grammars share one trial. Cancelled, it ends the trial, unless others wait for it: they begin it anew.
        """
        backend = self._kinds.backend(spec)
        if len(spec.text) > MAX_GRAMMAR_BYTES:
            raise RequestError(f"the grammar is longer than {MAX_GRAMMAR_BYTES} bytes")

        digest = _digest(spec)
        while digest not in self._verdicts and digest in self._in_trial:
            await self._in_trial[digest].wait()
        if digest not in self._verdicts:
            await self._judge(backend, spec, digest)
        self._verdicts.move_to_end(digest)
        verdict = self._verdicts[digest]
        if isinstance(verdict, RequestError):
            raise RequestError(str(verdict), param=verdict.param, code=verdict.code)
        return verdict

    async def _judge(self, backend: GrammarBackend, spec: GrammarSpec, digest: bytes) -> None:
        """A trial, whose verdict is remembered."""
        self._in_trial[digest] = anyio.Event()
        try:
            verdict = await self._verdict(backend, spec)
        finally:
            self._in_trial.pop(digest).set()
        self._verdicts[digest] = verdict
        if len(self._verdicts) > MAX_REMEMBERED:
            self._verdicts.popitem(last=False)

    async def _verdict(self, backend: GrammarBackend, spec: GrammarSpec) -> RequestError | tuple[str, ...]:
        """A refusal that would be the same next time, or what is not enforced. Raises what might be otherwise then."""
        for queue in self._queues:
            async with queue.turn():
                outcome = await self._try(backend.name, spec, queue.max_cpu_s)
            if outcome.signal != signal.SIGPROF:
                break
        if outcome.state == "accepted":
            return outcome.unenforced

        refusal = _refusal(outcome, backend.name, self._limits)
        if refusal is None:
            raise _failure(outcome, backend.name)
        return refusal

    async def _try(self, backend: str, spec: GrammarSpec, max_cpu_s: float) -> Outcome:
        """One try, and another one where it was ended from outside, as the system does that is short of memory."""
        assert self._tasks is not None, "a checker works while it is running"
        process = self._processes[backend]
        for _ in range(2):
            opened = await process.open(self._tasks)
            if opened is not None and opened.state != "accepted":
                return opened
            outcome = None if opened is None else await process.ask(spec, max_cpu_s)
            if outcome is not None and outcome.signal not in (signal.SIGKILL, signal.SIGTERM):
                return outcome
        raise EngineError("the process that checks grammars was ended; try again soon")


class _Queue:
    """Tries of one length: so many at a time, and so many that wait."""

    def __init__(self, max_cpu_s: float, num_at_once: int, max_tries: int) -> None:
        self.max_cpu_s = max_cpu_s
        self._limit = anyio.Semaphore(num_at_once)
        self._num_free = max_tries

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn. Raises `Overloaded` where too many do."""
        if not self._num_free:
            raise Overloaded("too many grammars are waiting to be checked; try again soon")

        self._num_free -= 1
        try:
            async with self._limit:
                yield
        finally:
            self._num_free += 1


def _refusal(outcome: Outcome, backend: str, limits: TrialLimits) -> RequestError | None:
    """What is the grammar's fault, or this model's."""
    if outcome.state == "refused":
        return RequestError(outcome.text, param=outcome.param, code=outcome.code)
    if outcome.state == "unusable":
        log.warning("the grammar backend %r cannot be used: %s", backend, outcome.text)
        text = f"the grammar backend {backend!r} cannot read this model's tokenizer; leave the form of the answer out"
        return RequestError(text, code="unsupported_parameter")
    if outcome.signal == signal.SIGPROF:
        text = f"the grammar takes more than {limits.tries_s[-1]:g} s of processor time to compile; make it simpler"
        return RequestError(text)
    if outcome.signal in _OWN_FAULT:
        return RequestError("the grammar takes too much memory to compile; make it simpler")
    return None


def _failure(outcome: Outcome, backend: str) -> HistrioError:
    """What is the backend's fault."""
    if outcome.signal == signal.SIGALRM:
        log.error(
            "the grammar backend %r did not end a trial in time, and took little processor time: trials run in forks, "
            "where threads that it started when it opened do not exist",
            backend,
        )
        return RequestError("the grammar takes too long to check")
    log.error("the grammar backend %r failed: %s", backend, outcome.text or f"signal {outcome.signal}")
    return PluginFailed(f"the grammar backend {backend!r} failed on this grammar; the server's log says how")


def _digest(spec: GrammarSpec) -> bytes:
    return hashlib.blake2b(msgspec.msgpack.encode(spec), digest_size=32).digest()
