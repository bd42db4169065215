"""Supervision inside one process: an ordered list of children, restarted together with those that depend on them.

A failure is first mended by making the actor anew in its process. Where that does not help, because it fails again
before the replica is up, or cannot help, because memory has run out, the process ends and its parent starts another.
How often any of this may happen is counted by root.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from histrio.actors.failed_step import failed_step_of
from histrio.actors.mailbox import Actor
from histrio.errors import HistrioError, is_out_of_memory, is_request_code
from histrio.messages import ChildFailed, Message, Start, Stop

__all__ = ["Child", "Supervisor", "end_process"]

log = logging.getLogger(__name__)

_NO_MEMORY = (
    "there is not enough memory; raise the limit of the process (ulimit -v, the container's), or lower "
    "engine.num-cache-blocks, engine.kvcache-mem-ratio or engine.max-batch-size"
)
_CLOSE_S = 5.0
"""Seconds that a process which ends for a failed actor has to close what it owns."""


@dataclass(frozen=True, slots=True)
class Child:
    """One actor and how to make it anew. Its `start` may take minutes (a stage loads its weights in it)."""

    name: str
    make: Callable[[], Actor[Any]]


class Supervisor:
    """Rest for one: when a child fails, it and all after it in the list are stopped in reverse and made anew."""

    def __init__(
        self,
        children: list[Child],
        host: Callable[[str, Actor[Any]], None],
        report: Callable[[ChildFailed], None],
        *,
        end_process: Callable[[], NoReturn] | None = None,
        can_mend: bool = True,
    ) -> None:
        """Without `end_process` there is no process to end: what cannot be mended here fails for good. `can_mend`
        False: no child is made anew here."""
        self._children = children
        self._host = host
        self._report = report
        self._end_process = end_process
        self._can_mend = can_mend
        self._actors: dict[str, Actor[Any]] = {}

    def start(self) -> None:
        """Make and host all children in order."""
        self._start_from(0)

    def has_child(self, name: str) -> bool:
        """Whether the actor is one of this supervisor's."""
        return any(child.name == name for child in self._children)

    def failed(self, name: str, error: BaseException, message: Message | None = None) -> None:
        """A child's handler raised at this message: log it once, then start it and its dependants again, or end the
        process."""
        _log_failure("actor %s failed", name, error)
        if not self._can_mend or isinstance(message, Start) or is_out_of_memory(error):
            self._give_up(name, error)
            return

        first = next(index for index, child in enumerate(self._children) if child.name == name)
        self._stop_from(first)
        dependants = [child.name for child in self._children[first + 1 :]]
        self._report(_described(name, error, dependants=dependants))
        self._start_from(first)

    def stop(self) -> None:
        """Stop all children, last first."""
        self._stop_from(0)

    def _start_from(self, first: int) -> None:
        """Give all their mailboxes before the first one starts: its news may bring messages for the others at once."""
        children = self._children[first:]
        for step in (self._make, self._start):
            for child in children:
                try:
                    step(child)
                except (HistrioError, ImportError) as error:  # it would fail in the same way again
                    self._report(ChildFailed(child.name, str(error), is_final=True))
                    return
                except Exception as error:
                    _log_failure("actor %s cannot start", child.name, error)
                    self._give_up(child.name, error)
                    return

    def _make(self, child: Child) -> None:
        self._actors[child.name] = child.make()
        self._host(child.name, self._actors[child.name])

    def _start(self, child: Child) -> None:
        self._actors[child.name].start()

    def _give_up(self, name: str, error: BaseException) -> None:
        """End the process, because a restart of the actor in it does not help."""
        if self._end_process is None:
            self._stop_from(0)
            self._report(ChildFailed(name, _in_words(error), is_final=True))
            return

        self._report(_described(name, error, ends_process=True))
        self._end_process()

    def _stop_from(self, first: int) -> None:
        for child in reversed(self._children[first:]):
            actor = self._actors.pop(child.name, None)
            if actor is None:
                continue
            try:
                actor.receive(Stop())
            except Exception as error:
                log.warning("actor %s did not stop cleanly: %s", child.name, error)


def end_process() -> NoReturn:
    """End the process in order, but within a limit: an actor that has failed may not close any more."""
    timer = threading.Timer(_CLOSE_S, os._exit, (1,))
    timer.daemon = True
    try:
        timer.start()
    except RuntimeError:  # there is no room for a thread
        os._exit(1)
    sys.exit(1)


def _described(
    name: str, error: BaseException, *, dependants: list[str] | None = None, ends_process: bool = False
) -> ChildFailed:
    """The error, with the request or the code that is known to be at fault."""
    return ChildFailed(
        name,
        _in_words(error),
        dependants=dependants or [],
        ends_process=ends_process,
        is_request_code=is_request_code(error),
        failed_step=failed_step_of(error),
    )


def _log_failure(sentence: str, name: str, error: BaseException) -> None:
    """Log with the traceback, unless memory has run out, which can happen anywhere."""
    if is_out_of_memory(error):
        log.error(f"{sentence}: %s", name, _in_words(error))
    else:
        log.error(sentence, name, exc_info=error)


def _in_words(error: BaseException) -> str:
    """The error for the log: its text and its notes, which say in whose code it was raised."""
    words = "; ".join([f"{type(error).__name__}: {error}".removesuffix(": "), *getattr(error, "__notes__", ())])
    return f"{_NO_MEMORY} ({words})" if is_out_of_memory(error) else words
