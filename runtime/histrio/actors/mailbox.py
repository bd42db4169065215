"""Where actors live: one dispatcher per thread, one deque of messages per dispatcher.

A message is appended to the dispatcher's deque and handled after the current handler has returned; never by a recursive
call. When the deque has been drained, actors that got something are flushed once: that is where batching plans the
next step, with everything that arrived meanwhile in view.
"""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from histrio.messages import Message

__all__ = ["FAILURES", "Actor", "Dispatcher", "LoopDispatcher", "OnFailure", "ThreadDispatcher"]


M = TypeVar("M")


class Actor(ABC, Generic[M]):
    """Owns some state; everything that happens to it is a message of the union `M` (`actors/refs.py`)."""

    def start(self) -> None:
        """Called once the mailbox exists, on the thread that will run the handlers; may block a device's thread."""

    @abstractmethod
    def receive(self, message: M) -> None:
        """Handle one message. An exception here is the supervisor's business."""

    def flush(self) -> None:
        """The mailbox is empty: act on what was received since the last flush."""

    def pause_s(self) -> float | None:
        """Seconds after which `flush` is to be called again though nothing came; None: not before something does."""
        return None

    def idle(self) -> None:
        """No message came to any actor of this dispatcher for a while: do checks that cost time now."""


OnFailure = Callable[[str, BaseException, Message | None], None]
"""Called with the actor's name, and the message if there was one, when a handler raised; runs on the dispatcher's
thread."""

FAILURES = (Exception, SystemExit)
"""What a handler may raise: a plugin that calls `sys.exit` has failed like any other."""
_MAX_PER_TURN = 256
"""Messages handled before the event loop gets its turn."""
_IDLE_AFTER_S = 0.25
"""Quiet time after which actors are told that they are idle, once."""


class Dispatcher(ABC):
    """Runs the handlers of its actors, one after the other. `post` may be called from any thread."""

    def __init__(self, on_failure: OnFailure) -> None:
        self._actors: dict[str, Actor[Any]] = {}
        self._inbox: deque[tuple[str, Message]] = deque()
        self._dirty: dict[str, Actor[Any]] = {}
        self._on_failure = on_failure
        self.num_handled = 0
        """Messages whose handling has begun, so far."""

    def host(self, name: str, actor: Actor[Any]) -> None:
        """The actor lives here from now on; replaces one of the same name."""
        self._actors[name] = actor

    def post(self, name: str, message: Message) -> None:
        """Append a message to the mailbox; never blocks, never runs a handler."""
        self._inbox.append((name, message))
        self._wake()

    @abstractmethod
    def _wake(self) -> None:
        """Make sure that a turn will come."""

    def _turn(self, most: int) -> bool:
        """Handle up to `most` messages, flush if drained; whether more is waiting."""
        inbox = self._inbox
        while inbox and most > 0:
            name, message = inbox.popleft()
            most -= 1
            self.num_handled += 1
            actor = self._actors.get(name)
            if actor is None:
                continue
            self._dirty[name] = actor
            try:
                actor.receive(message)
            except FAILURES as error:
                self._on_failure(name, error, message)
        if not inbox:
            self._flush()
        return bool(inbox)

    def _idle(self) -> None:
        for name, actor in list(self._actors.items()):
            self._guard(name, actor.idle)

    def _guard(self, name: str, call: Callable[[], None]) -> None:
        try:
            call()
        except FAILURES as error:
            self._on_failure(name, error, None)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, {}
        for name, actor in dirty.items():
            if self._actors.get(name) is actor:
                self._guard(name, actor.flush)
                pause_s = actor.pause_s()
                if pause_s is not None:
                    self._flush_later(name, actor, pause_s)

    @abstractmethod
    def _flush_later(self, name: str, actor: Actor[Any], pause_s: float) -> None:
        """Flush the actor again after that time."""

    def _flush_again(self, name: str, actor: Actor[Any]) -> None:
        self._dirty[name] = actor
        if not self._inbox:
            self._flush()


class LoopDispatcher(Dispatcher):
    """Runs on an asyncio loop, for processes that serve many: never blocks."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_failure: OnFailure) -> None:
        super().__init__(on_failure)
        self._loop = loop
        self._armed = False
        self._turns = 0
        self._is_watching = False

    def _wake(self) -> None:
        if self._armed:
            return
        self._armed = True
        try:
            self._loop.call_soon_threadsafe(self._run)
        except RuntimeError:  # the loop has closed: no actor is left to read it
            self._inbox.clear()

    def _run(self) -> None:
        self._armed = False
        self._turns += 1
        if not self._is_watching:
            self._is_watching = True
            self._loop.call_later(_IDLE_AFTER_S, self._watch, self._turns)
        if self._turn(_MAX_PER_TURN):
            self._wake()

    def _flush_later(self, name: str, actor: Actor[Any], pause_s: float) -> None:
        self._loop.call_later(pause_s, self._flush_again, name, actor)

    def _watch(self, turns: int) -> None:
        """Quiet since the last look: idle. Otherwise look again later."""
        if turns != self._turns:
            self._loop.call_later(_IDLE_AFTER_S, self._watch, self._turns)
            return
        self._is_watching = False
        self._idle()


class ThreadDispatcher(Dispatcher):
    """Owns a thread that may block, for device work: `run` returns after `stop`."""

    def __init__(self, on_failure: OnFailure, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(on_failure)
        self._clock = clock
        self._event = threading.Event()
        self._stopping = False
        self._is_waiting = False
        self._due: dict[str, tuple[float, Actor[Any]]] = {}
        """Actors that are to be flushed again, by name, with the clock time of the flush."""

    def _flush_later(self, name: str, actor: Actor[Any], pause_s: float) -> None:
        self._due[name] = (self._clock() + pause_s, actor)

    def _flush_due(self) -> bool:
        """Flush the actors whose time has come; returns whether there were any."""
        now = self._clock()
        due = {name: actor for name, (when, actor) in self._due.items() if when <= now}
        for name, actor in due.items():
            del self._due[name]
            self._flush_again(name, actor)
        return bool(due)

    def _wait_s(self, was_active: bool) -> float | None:
        """Seconds until the next flush that is due without a message."""
        waits = [max(when - self._clock(), 0.0) for when, _ in self._due.values()]
        return min([*waits, _IDLE_AFTER_S] if was_active else waits, default=None)

    def _wake(self) -> None:
        if not self._event.is_set():
            self._event.set()

    @property
    def has_work(self) -> bool:
        """Whether a message waits or a handler runs; for other threads."""
        return bool(self._inbox) or not self._is_waiting

    def run(self) -> None:
        """Handle messages until stopped. Call it on the thread that owns the device."""
        was_active = False
        while not self._stopping:
            self._is_waiting = True
            is_woken = self._event.wait(self._wait_s(was_active))
            self._is_waiting = False
            if not is_woken:
                if not self._flush_due():
                    was_active = False
                    self._idle()
                continue
            was_active = True
            self._event.clear()
            while not self._stopping and self._turn(_MAX_PER_TURN):
                pass
            if self._due:
                self._flush_due()

    def stop(self) -> None:
        """End `run` after the current handler; callable from any thread."""
        self._stopping = True
        self._event.set()
