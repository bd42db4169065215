"""The front's side of `histrio.front.grammar_trial`: one process per grammar backend, one question at a time."""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass

import anyio
import msgspec
from anyio.abc import TaskGroup

from histrio.children.child import ChildSpec
from histrio.children.spawn import ChildProcess, spawn
from histrio.contracts.grammar import VocabularySpec
from histrio.errors import EngineError
from histrio.front.grammar_trial import Outcome, Trial, TrialJob, decode_frame, encode_frame
from histrio.messages import GrammarSpec

__all__ = ["TrialLimits", "TrialProcess"]

log = logging.getLogger(__name__)

_ENTRY = "histrio.front.grammar_trial:run"
_MAX_READ_BYTES = 65536


@dataclass(frozen=True, slots=True)
class TrialLimits:
    """What trials may take; `docs/structured-output.md` lists it."""

    tries_s: tuple[float, ...] = (0.03, 0.1, 0.5)
    """Processor time of the first try, which usual grammars end within, and of those that the others get."""
    max_s: float = 30.0
    """One try in all: its process may wait for a processor, or for nothing."""
    max_bytes: int = 512 * 2**20
    """Memory beyond the vocabulary's."""
    max_open_s: float = 120.0
    """Starting the process and opening the vocabulary."""


class _Life:
    """One process, from its start on."""

    def __init__(self) -> None:
        self.is_opened = anyio.Event()
        """Set once the process is open, or cannot be opened."""
        self.outcome: Outcome | None = None
        """How opening the backend went; None until it is known."""
        self.child: ChildProcess | None = None
        self.control: socket.socket | None = None


class TrialProcess:
    """Starts the process when it is needed, and again when it has ended."""

    def __init__(self, backend: str, vocabulary: VocabularySpec, source: str, limits: TrialLimits) -> None:
        self._backend = backend
        self._vocabulary = vocabulary
        self._source = source
        self._limits = limits
        self._life: _Life | None = None

    @property
    def pid(self) -> int | None:
        """The system's number of the process, as long as there is one."""
        child = None if self._life is None else self._life.child
        return None if child is None else child.pid

    async def open(self, tasks: TaskGroup) -> Outcome | None:
        """Wait until the vocabulary is open, which the first caller begins, and say how it went; None if the process
        has ended meanwhile, or takes too long. It lives in `tasks`."""
        if self._life is None:
            self._life = _Life()
            tasks.start_soon(self._live, self._life)
        life = self._life
        await life.is_opened.wait()
        return life.outcome

    async def ask(self, grammar: GrammarSpec, max_cpu_s: float) -> Outcome | None:
        """Try it in a fork of the opened process; None if the process has ended. Cancelled, the fork is killed."""
        life, limits = self._life, self._limits
        if life is None or life.control is None:
            return None

        outcome = None
        ours, theirs = socket.socketpair()
        with ours:
            ours.setblocking(False)
            try:
                with theirs:
                    socket.send_fds(life.control, [b"?"], [theirs.fileno()])
                trial = Trial(grammar, max_cpu_s, limits.max_s, limits.max_bytes)
                await asyncio.get_running_loop().sock_sendall(ours, encode_frame(trial))
                outcome = await _read(ours)
            except OSError as error:
                log.debug("a trial was not answered: %s", error)
        if outcome is None:
            self._end(life)
        return outcome

    async def _live(self, life: _Life) -> None:
        """From the start of a process to its end."""
        life.control, theirs = socket.socketpair()
        life.control.setblocking(False)
        try:
            with theirs:
                life.child = await self._spawn(theirs.fileno())
            with anyio.move_on_after(self._limits.max_open_s):
                life.outcome = await _read(life.control)
            life.is_opened.set()
            if life.outcome is not None and life.outcome.state in ("accepted", "unusable"):
                log.info("the process that tries grammars %s", await life.child.wait())
            else:
                log.error("the grammar backend %r did not open", self._backend)
        except (OSError, EngineError) as error:
            log.error("the process that tries grammars cannot be started: %s", error)
        finally:
            life.is_opened.set()
            if life.outcome is None or life.outcome.state != "unusable":
                self._end(life)
            life.control.close()
            if life.child is not None:
                life.child.kill()
                with anyio.CancelScope(shield=True):
                    await life.child.wait()

    def _end(self, life: _Life) -> None:
        """The process has ended or is ended now: the next question starts another."""
        if life.child is not None:
            life.child.kill()
        if self._life is life:
            self._life = None

    async def _spawn(self, control: int) -> ChildProcess:
        job = TrialJob(self._backend, self._vocabulary, self._source, control)
        return await spawn(ChildSpec(_ENTRY, msgspec.to_builtins(job), "grammars"), pass_fds=[control])


async def _read(ours: socket.socket) -> Outcome | None:
    """One outcome; None where the other end is closed instead."""
    loop = asyncio.get_running_loop()
    data = b""
    while (outcome := decode_frame(data)) is None:
        part = await loop.sock_recv(ours, _MAX_READ_BYTES)
        if not part:
            return None
        data += part
    return outcome
