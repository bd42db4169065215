"""What a device's thread does now, as its I/O thread sees it and tells the front in every beat."""

from __future__ import annotations

import time
from collections.abc import Callable

from histrio.actors.mailbox import ThreadDispatcher
from histrio.messages import Beat
from histrio.stage.actor import Activity
from histrio.system.own_time import OwnTime

__all__ = ["DeviceWatch"]

_BETWEEN_BEATS_S = 1.0


class DeviceWatch:
    """Makes the beats of one process, on its I/O thread.

    Times are counted from beat to beat: while the whole process was stopped nothing took long.
    """

    def __init__(self, process: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._process = process
        self._time = OwnTime(_BETWEEN_BEATS_S, clock)
        self._activities: dict[int, Activity] = {}
        self.dispatcher: ThreadDispatcher | None = None
        """The dispatcher of the device's thread, once it is made."""
        self._step_began = 0.0
        self._num_handled = -1
        self._busy_since = self._stuck_since = 0.0

    def add(self, stage: int, activity: Activity) -> None:
        """The stage was made, or made anew."""
        self._activities[stage] = activity

    def beat(self) -> Beat:
        """What the process is busy with."""
        now = self._time()
        stuck_s = self._stuck_s(now)
        for activity in list(self._activities.values()):
            if activity.since:
                return Beat(self._process, activity.step, self._busy_s(activity, now), activity.expected_s, stuck_s)
        return Beat(self._process, 0, 0.0, 0.0, stuck_s)

    def _busy_s(self, activity: Activity, now: float) -> float:
        """Since the step began, without what lies between two beats that are far apart."""
        if activity.since != self._step_began:
            self._step_began = activity.since
            self._busy_since = now - min(activity.busy_s, _BETWEEN_BEATS_S)
        return now - self._busy_since

    def _stuck_s(self, now: float) -> float:
        """Since the first beat that saw the same message wait, or be handled."""
        dispatcher = self.dispatcher
        if dispatcher is None or not dispatcher.has_work:
            self._num_handled = -1
            return 0.0

        if dispatcher.num_handled != self._num_handled:
            self._num_handled, self._stuck_since = dispatcher.num_handled, now
        return now - self._stuck_since
