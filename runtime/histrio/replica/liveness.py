"""Which processes are hung: judged by what each of them said last, and by what the operating system says of it.

Silence alone proves nothing. A beat is made by Python code, and a native call that holds the interpreter's lock (the
import of a large library, the opening of a vocabulary) silences a process that is well. So a silent process counts as
busy while it, or a process that it started, computes or reads; one that does neither is hung.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from histrio.config.topology import RuntimeTable
from histrio.messages import Beat
from histrio.system.own_time import OwnTime

__all__ = ["IS_STOPPED", "Liveness", "ProcessView"]

IS_STOPPED = "is stopped"
"""The one fault of a process that only another program can have caused."""
_STOPPED_AFTER_S = 1.5
_SILENT_AFTER_S = 2.0
"""Four beats that did not come."""
_HUNG_FACTOR = 5.0
_WORKING_SHARE, _LEAST_WORK_S = 0.02, 0.05
"""Less work than this share of the time, or than this, is what the beats themselves cost."""


class ProcessView(Protocol):
    """What the operating system says of a process."""

    is_stopped: bool
    """Whether a signal or a debugger has stopped it."""
    cpu_s: float

    def work_s(self) -> float:
        """Seconds of computing and reading so far, of the process and all that it has started."""


@dataclass(slots=True)
class _Life:
    """What is known of one process; times are those of the judge's own clock."""

    started_at: float
    has_begun: bool = False
    beat: Beat | None = None
    heard_at: float = 0.0
    got_on_at: float = 0.0
    """The last sign of work or progress."""
    work_s: float | None = None
    """Seconds of computing at its last sign."""
    stopped_at: float | None = None
    stopped_cpu_s: float = 0.0


class Liveness:
    """The judge: told what the processes say, it names those that have to be ended, each once."""

    def __init__(self, runtime: RuntimeTable | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._runtime = runtime or RuntimeTable()
        self._time = OwnTime(clock=clock)
        self._now = 0.0
        self._lives: dict[str, _Life] = {}

    def started(self, process: str) -> None:
        """A process was ordered; its first message is awaited from now on."""
        self._lives[process] = _Life(self._now, got_on_at=self._now)

    def gone(self, process: str) -> None:
        """The process has ended or is about to: stop judging it."""
        self._lives.pop(process, None)

    def begun(self, process: str) -> None:
        """The process has sent its first message."""
        self._hear(process)

    def has_begun(self, process: str) -> bool:
        """Whether its first message has come, and its end has not."""
        life = self._lives.get(process)
        return life is not None and life.has_begun

    def beat(self, beat: Beat) -> None:
        """The process has told what it does."""
        life = self._hear(beat.process)
        if life is not None:
            life.beat = beat

    def got_on(self, process: str) -> None:
        """The process has made progress with loading."""
        life = self._hear(process)
        if life is not None:
            life.got_on_at = self._now

    def check(
        self, look: Callable[[str], ProcessView | None], is_loading: Callable[[str], bool]
    ) -> list[tuple[str, str]]:
        """Call it twice a second: the processes that are hung, each with what is wrong with it, as `it …`."""
        self._now = self._time()
        hung = []
        for process, life in list(self._lives.items()):
            reason = self._judge(life, look(process), is_loading(process))
            if reason:
                del self._lives[process]
                hung.append((process, reason))
        return hung

    def _hear(self, process: str) -> _Life | None:
        life = self._lives.get(process)
        if life is not None:
            life.has_begun = True
            life.heard_at = self._now
        return life

    def _judge(self, life: _Life, view: ProcessView | None, is_loading: bool) -> str:
        """What is wrong with it; empty if nothing is."""
        runtime = self._runtime
        if self._is_stopped(life, view):
            return IS_STOPPED
        if not life.has_begun:
            took_s = self._now - life.started_at
            return f"did not begin within {took_s:.0f} s" if took_s > runtime.start_timeout_s else ""
        if is_loading:
            quiet_s = self._quiet_s(life, view)
            return f"has loaded without any progress for {quiet_s:.0f} s" if quiet_s > runtime.load_timeout_s else ""

        silent_s = self._now - life.heard_at
        if silent_s > _SILENT_AFTER_S:
            return self._judge_silent(life, view, silent_s)
        if life.beat is not None and (life.beat.busy_s or life.beat.stuck_s):
            return self._judge_busy(life, view, life.beat)
        life.work_s = None
        return ""

    def _is_stopped(self, life: _Life, view: ProcessView | None) -> bool:
        # A tracer stops a process at every system call and lets it go on: only without any computing it is stopped.
        if view is None or not view.is_stopped or (life.stopped_at is not None and view.cpu_s > life.stopped_cpu_s):
            life.stopped_at = None
            return False
        if life.stopped_at is None:
            life.stopped_at, life.stopped_cpu_s = self._now, view.cpu_s
        return self._now - life.stopped_at >= _STOPPED_AFTER_S

    def _judge_silent(self, life: _Life, view: ProcessView | None, silent_s: float) -> str:
        runtime = self._runtime
        is_first_step = life.beat is not None and life.beat.busy_s > 0 and not life.beat.expected_s
        limit_s = runtime.first_step_timeout_s if is_first_step else runtime.hang_timeout_s
        is_hung = min(silent_s, self._quiet_s(life, view)) > limit_s or silent_s > runtime.first_step_timeout_s
        return f"gave no sign of life for {silent_s:.1f} s" if is_hung else ""

    def _judge_busy(self, life: _Life, view: ProcessView | None, beat: Beat) -> str:
        runtime = self._runtime
        if beat.busy_s:
            least_s = runtime.hang_timeout_s if beat.expected_s else runtime.first_step_timeout_s
            is_hung = beat.busy_s > max(least_s, _HUNG_FACTOR * beat.expected_s)
            return f"hangs in step {beat.step} for {beat.busy_s:.1f} s" if is_hung else ""

        quiet_s = min(beat.stuck_s, self._quiet_s(life, view))
        is_hung = quiet_s > runtime.hang_timeout_s or beat.stuck_s > runtime.first_step_timeout_s
        return f"has not handled its messages for {beat.stuck_s:.1f} s" if is_hung else ""

    def _quiet_s(self, life: _Life, view: ProcessView | None) -> float:
        """Seconds for which it has shown neither work nor progress, from when it was first asked."""
        work_s = 0.0 if view is None else view.work_s()
        elapsed_s = self._now - life.got_on_at
        # What a process that has ended had worked is missing in the sum: any change is a sign.
        sign_s = max(_LEAST_WORK_S, _WORKING_SHARE * elapsed_s)
        if life.work_s is None or abs(work_s - life.work_s) >= sign_s:
            life.work_s, life.got_on_at = work_s, self._now
        return self._now - life.got_on_at
