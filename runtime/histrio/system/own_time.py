"""Time as this process lived it, for limits on others: time that it slept through does not count against them."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["OwnTime"]


class OwnTime:
    """A clock that goes on by `most_s` at most from one reading to the next; read it more often than that.

    A process that was stopped, or that one long call kept from reading, finds the news of others only afterwards. By
    the wall clock they would all have been silent for as long.
    """

    def __init__(self, most_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_s = most_s
        self._clock = clock
        self._read_at = clock()
        self._time = 0.0

    def __call__(self) -> float:
        """Seconds since it was made, without the gaps."""
        now = self._clock()
        self._time += min(now - self._read_at, self._most_s)
        self._read_at = now
        return self._time
