"""How often a replica may fail, counted in one place for all of its processes and actors.

Failures are forgotten with the time that the replica is up: so one that never comes up, or takes long to, runs into
the limit like any other. A failure that a request is to blame for is none of the replica's, nor are those before it
that made that request a suspect.
"""

from __future__ import annotations

from collections import deque

__all__ = ["RestartAccount"]

_FIRST_DELAY_S = 0.25
_MOST_DELAY_S = 4.0


class RestartAccount:
    """At most `max_restarts` failures within `restart_window_s` seconds of being up. `now` is any clock's."""

    def __init__(self, max_restarts: int, restart_window_s: float) -> None:
        self.max_restarts = max_restarts
        self.restart_window_s = restart_window_s
        self.delay_s = 0.0
        """Seconds to wait before the next start."""
        self._up_s = 0.0
        """Seconds that the replica has been up, without the present time."""
        self._up_since: float | None = None
        self._failures: deque[float] = deque()
        """When they happened, in seconds of being up."""
        self._num_open = 0
        """How many of the last of them may turn out to be a request's."""

    def came_up(self, now: float) -> None:
        """The replica serves."""
        self._up_since = now

    def failed(self, now: float) -> bool:
        """The replica has failed and is down. False if it has failed too often."""
        self._pause(now)
        self._failures.append(self._up_s)
        while self._failures[0] <= self._up_s - self.restart_window_s:
            self._failures.popleft()
        self._num_open += 1
        num_before = len(self._failures) - 1
        self.delay_s = min(_FIRST_DELAY_S * 2.0 ** (num_before - 1), _MOST_DELAY_S) if num_before else 0.0
        return len(self._failures) <= self.max_restarts

    def forgive(self, now: float) -> None:
        """It is down for a request that has been found out by that: neither this counts, nor do the failures before
        that made the request a suspect, or left a doubt."""
        self._pause(now)
        for _ in range(min(self._num_open, len(self._failures))):
            self._failures.pop()
        self._num_open = 0
        self.delay_s = 0.0

    def settled(self) -> None:
        """No request is suspected any more: no request caused the failures so far."""
        self._num_open = 0

    def _pause(self, now: float) -> None:
        if self._up_since is not None:
            self._up_s += now - self._up_since
        self._up_since = None

    def __str__(self) -> str:
        return f"{self.max_restarts} restarts in {self.restart_window_s:g} s"
