"""Grammars are compiled for trial in this process, which stands beside the front: `histrio.children.child` runs it.

Compiling is work that a client writes, and a short grammar can keep a compiler busy for minutes, or fill the memory. So
the process opens the vocabulary once and forks for every trial. The kernel bounds the fork: its processor time, its
memory, its life in all. What ends there leaves the vocabulary open, and a trial whose asker has gone is killed.

    control: a socket to the front; one outcome when the vocabulary is open, then one descriptor in for every trial
    a trial's own socket: a `Trial` in, an `Outcome` out; the front closes it to give the trial up
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import select
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Iterable
from pkgutil import resolve_name
from typing import Any, Literal, NamedTuple, NoReturn

import msgspec
import numpy as np

from histrio.contracts.grammar import GrammarBackend, MaskRequest, Matcher, Vocabulary, VocabularySpec, num_mask_words
from histrio.errors import ModelError, RequestError
from histrio.messages import GrammarSpec
from histrio.system.heap import release_free_memory

__all__ = ["Outcome", "Trial", "TrialJob", "decode_frame", "encode_frame", "installed_backends", "run", "try_grammar"]

MAX_WALK_TOKENS = 32
"""Tokens that a trial follows its grammar: what the matcher's limits end, they mostly end at once."""
MAX_UNENFORCED = 64
"""Places of what is not enforced that are told of one grammar."""
_MAX_FORCED_TOKENS = 16
_NICENESS = 5
"""Trials have a lower priority than the model's steps."""
_PR_SET_PDEATHSIG = 1
_FRAME_HEAD_BYTES = 4


class Trial(msgspec.Struct, frozen=True, array_like=True):
    """One grammar to be compiled."""

    grammar: GrammarSpec
    max_cpu_s: float
    max_s: float
    max_bytes: int


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """What came of a trial, or of opening the vocabulary."""

    state: Literal["accepted", "refused", "unusable", "failed", "killed"]
    """`unusable`: this model's tokenizer has no grammars; `failed`: the backend raised; `killed`: by `signal`."""
    text: str = ""
    """Safe to show where refused or unusable; a traceback for the log where failed."""
    param: str | None = None
    code: str = ""
    signal: int = 0
    unenforced: tuple[str, ...] = ()
    """Of an accepted grammar: places of what is not enforced."""


class TrialJob(msgspec.Struct, frozen=True):
    """What the process is told when it starts."""

    backend: str
    vocabulary: VocabularySpec
    source: str
    """`module:function`, which gives all grammar backends."""
    control: int
    """Descriptor of the socket to the front."""


def installed_backends() -> Iterable[GrammarBackend]:
    """The grammar backends of all plugins."""
    from histrio.plugins.registry import installed_plugins

    return list(installed_plugins().grammars)


def run(payload: Any) -> None:
    """Entry of the process: until the front is gone."""
    job = msgspec.convert(payload, TrialJob)
    if sys.platform != "win32":
        os.nice(_NICENESS)
    control = socket.socket(fileno=job.control)
    opened, outcome = _open(job)
    try:
        control.sendall(encode_frame(outcome))
        if opened is not None:
            _Forks(control, opened).run()
    except ConnectionError:
        pass  # the front is gone


def try_grammar(vocabulary: Vocabulary, spec: GrammarSpec, tokens: VocabularySpec) -> None:
    """Compile it and follow it for some tokens, as the last stage will. Raises `RequestError`."""
    matcher = vocabulary.matcher(spec)
    masks = np.zeros((1, num_mask_words(tokens.vocab_size)), np.int32)
    num_tokens = 0
    while num_tokens < MAX_WALK_TOKENS:
        masks[:] = 0
        vocabulary.fill([MaskRequest(matcher, 0)], masks)
        _require_no_error(matcher)
        allowed = np.unpackbits(masks.view(np.uint8), bitorder="little")[: tokens.vocab_size]
        if not num_tokens and not allowed.any():
            raise RequestError("no text fits this grammar")
        allowed[[each for each in tokens.eos_ids if each < tokens.vocab_size]] = 0
        if not allowed.any():
            return
        ids = [int(allowed.argmax())]
        matcher.advance(ids)
        _require_no_error(matcher)
        forced = matcher.forced(_MAX_FORCED_TOKENS)
        matcher.advance(forced)
        _require_no_error(matcher)
        if matcher.is_finished:
            return
        num_tokens += 1 + len(forced)


def encode_frame(message: Trial | Outcome) -> bytes:
    """Its length, and itself."""
    data = msgspec.msgpack.encode(message)
    return len(data).to_bytes(_FRAME_HEAD_BYTES, "big") + data


def decode_frame(data: bytes) -> Outcome | None:
    """The outcome that `data` begins with; None as long as it is not complete."""
    end = _FRAME_HEAD_BYTES + int.from_bytes(data[:_FRAME_HEAD_BYTES], "big")
    if len(data) < max(end, _FRAME_HEAD_BYTES):
        return None
    return msgspec.msgpack.decode(data[_FRAME_HEAD_BYTES:end], type=Outcome)


def _require_no_error(matcher: Matcher) -> None:
    if matcher.error:
        raise RequestError("the grammar is too complex to be followed, or refers to itself without end")


class _Opened(NamedTuple):
    backend: GrammarBackend
    vocabulary: Vocabulary
    tokens: VocabularySpec


def _open(job: TrialJob) -> tuple[_Opened | None, Outcome]:
    """What trials need, and what to tell the front of it."""
    try:
        backends: Iterable[GrammarBackend] = resolve_name(job.source)()
        backend = next(each for each in backends if each.name == job.backend)
        vocabulary = backend.open(job.vocabulary)
    except ModelError as error:
        return None, Outcome("unusable", str(error))
    except BaseException:  # a plugin's code: compiled ones panic with what is no Exception
        return None, Outcome("failed", traceback.format_exc())
    return _Opened(backend, vocabulary, job.vocabulary), Outcome("accepted")


class _Forks:
    """The trials that run, each a process with a socket of its own."""

    def __init__(self, control: socket.socket, opened: _Opened) -> None:
        self._control = control
        self._opened = opened
        self._running: dict[int, socket.socket] = {}
        """Process id → this end of the trial's socket."""
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def run(self) -> None:
        """Fork for each descriptor that comes, and see to the end of each fork, until the front is gone."""
        ended, woken = os.pipe()
        os.set_blocking(woken, False)
        os.set_blocking(ended, False)
        signal.signal(signal.SIGCHLD, lambda _signum, _frame: None)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # forks beside threads: these only wait
        gc.collect()
        release_free_memory()
        gc.freeze()
        while True:
            events = self._poll(ended)
            if ended in events:
                os.read(ended, 4096)
            self._reap()
            for process, ours in list(self._running.items()):
                if ours.fileno() in events:
                    os.kill(process, signal.SIGKILL)  # its asker has gone
            if self._control.fileno() in events and not self._begin():
                return

    def _poll(self, ended: int) -> set[int]:
        """Descriptors with news. Of a trial's socket that is the end of its asker: what it says is for the fork."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(ended, select.POLLIN)
        for ours in self._running.values():
            poll.register(ours, 0)
        return {descriptor for descriptor, _ in poll.poll()}

    def _begin(self) -> bool:
        """Fork for the descriptor that has come; False if the front has gone instead."""
        message, descriptors, _, _ = socket.recv_fds(self._control, 1, 1)
        if not message:
            return False

        for descriptor in descriptors:
            connection = socket.socket(fileno=descriptor)
            parent = os.getpid()
            process = os.fork()
            if process == 0:
                self._try(connection, parent)
            self._running[process] = connection
        return True

    def _reap(self) -> None:
        """Tell the front of the forks that were killed. Those that ended by themselves have told."""
        for process, connection in list(self._running.items()):
            ended, status = os.waitpid(process, os.WNOHANG)
            if not ended:
                continue
            del self._running[process]
            with connection:
                code = os.waitstatus_to_exitcode(status)
                if code != 0:
                    outcome = Outcome("killed", signal=-code) if code < 0 else Outcome("failed", f"exit code {code}")
                    try:
                        connection.sendall(encode_frame(outcome))
                    except OSError:
                        pass  # its asker has gone

    def _try(self, connection: socket.socket, parent: int) -> NoReturn:
        """Compile the grammar, in the forked process, and answer."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if self._libc is not None:
                self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() != parent:
                    os._exit(1)
            self._control.close()
            trial = _read_trial(connection)
            _bound(trial)
            connection.sendall(encode_frame(_outcome(self._opened, trial)))
            os._exit(0)
        finally:
            os._exit(1)


def _outcome(opened: _Opened, trial: Trial) -> Outcome:
    try:
        unenforced = tuple(opened.backend.check(trial.grammar) or ())[:MAX_UNENFORCED]
        try_grammar(opened.vocabulary, trial.grammar, opened.tokens)
    except RequestError as error:
        return Outcome("refused", str(error), error.param, error.code)
    except MemoryError:
        return Outcome("killed", signal=signal.SIGABRT)
    except BaseException:  # a plugin's code: compiled ones panic with what is no Exception
        return Outcome("failed", traceback.format_exc())
    return Outcome("accepted", unenforced=unenforced)


def _read_trial(connection: socket.socket) -> Trial:
    with connection.makefile("rb") as file:
        num_bytes = int.from_bytes(file.read(_FRAME_HEAD_BYTES), "big")
        return msgspec.msgpack.decode(file.read(num_bytes), type=Trial)


def _bound(trial: Trial) -> None:
    """From here on the kernel ends this process where it takes too much. It says nothing, and leaves no core file."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with open("/proc/self/statm", encoding="ascii") as file:
            num_bytes = int(file.read().split()[0]) * resource.getpagesize() + trial.max_bytes
        resource.setrlimit(resource.RLIMIT_AS, (num_bytes, num_bytes))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, trial.max_cpu_s)
    signal.setitimer(signal.ITIMER_REAL, trial.max_s)
