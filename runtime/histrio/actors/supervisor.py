"""Supervision inside one process: an ordered list of children, restarted together with those that depend on them."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from histrio.actors.mailbox import Actor
from histrio.errors import HistrioError, RestartLimitReached
from histrio.messages import ChildFailed, Stop

__all__ = ["Child", "RestartIntensity", "Supervisor"]

log = logging.getLogger(__name__)

_CLOSE_S = 5.0
"""Seconds that a process which ends for a failed actor has to close what it owns."""


class RestartIntensity:
    """At most `max_restarts` within any `window_s` seconds; more means that restarting does not help."""

    def __init__(self, max_restarts: int, window_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_restarts = max_restarts
        self.window_s = window_s
        self._clock = clock
        self._restarts: deque[float] = deque()

    def allows_restart(self) -> bool:
        """Count one restart; False if that is one too many."""
        now = self._clock()
        self._restarts.append(now)
        while self._restarts[0] <= now - self.window_s:
            self._restarts.popleft()
        return len(self._restarts) <= self.max_restarts

    def __str__(self) -> str:
        return f"{self.max_restarts} restarts in {self.window_s:g} s"


@dataclass(frozen=True, slots=True)
class Child:
    """One actor and how to make it anew. Its `start` may take minutes (a stage loads its weights in it)."""

    name: str
    make: Callable[[], Actor]


class Supervisor:
    """Rest for one: when a child fails, it and all after it in the list are stopped in reverse and made anew."""

    def __init__(
        self,
        children: list[Child],
        intensity: RestartIntensity | None,
        host: Callable[[str, Actor], None],
        report: Callable[[ChildFailed], None],
    ) -> None:
        """`intensity` None: nothing is restarted here, a failure ends the process, whose parent starts another."""
        self._children = children
        self._intensity = intensity
        self._host = host
        self._report = report
        self._actors: dict[str, Actor] = {}

    def start(self) -> None:
        """Make and host all children in order."""
        self._start_from(0)

    def has_child(self, name: str) -> bool:
        """Whether the actor is one of this supervisor's."""
        return any(child.name == name for child in self._children)

    def failed(self, name: str, error: Exception) -> None:
        """A child's handler raised: log it once, then start it and its dependants again, or end the process."""
        log.error("actor %s failed", name, exc_info=error)
        if self._intensity is None:
            _end_process()

        first = next(index for index, child in enumerate(self._children) if child.name == name)
        self._stop_from(first)
        if not self._intensity.allows_restart():
            limit = RestartLimitReached(f"{name} failed more than {self._intensity}: {error}")
            self._report(ChildFailed(name, str(limit), is_final=True))
            return

        dependants = [child.name for child in self._children[first + 1 :]]
        self._report(ChildFailed(name, f"{type(error).__name__}: {error}", dependants=dependants))
        self._start_from(first)

    def stop(self) -> None:
        """Stop all children, last first."""
        self._stop_from(0)

    def _start_from(self, first: int) -> None:
        """Give all their mailboxes before the first one starts: its news may bring messages for the others at once."""
        children = self._children[first:]
        for child in children:
            self._actors[child.name] = child.make()
            self._host(child.name, self._actors[child.name])
        for child in children:
            try:
                self._actors[child.name].start()
            except HistrioError as error:  # it would fail in the same way again
                self._report(ChildFailed(child.name, str(error), is_final=True))
                return
            except Exception as error:
                self.failed(child.name, error)
                return

    def _stop_from(self, first: int) -> None:
        for child in reversed(self._children[first:]):
            actor = self._actors.pop(child.name, None)
            if actor is None:
                continue
            try:
                actor.receive(Stop())
            except Exception as error:
                log.warning("actor %s did not stop cleanly: %s", child.name, error)


def _end_process() -> NoReturn:
    """By the usual way out, but within a limit: what has failed may not close any more."""
    timer = threading.Timer(_CLOSE_S, os._exit, (1,))
    timer.daemon = True
    timer.start()
    sys.exit(1)
