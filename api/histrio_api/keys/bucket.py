"""A token bucket: what may be taken comes back at a steady rate. It knows no clock; every call says what time it is."""

from __future__ import annotations

__all__ = ["Bucket"]

_MINUTE_S = 60.0


class Bucket:
    """Holds at most what comes back in a minute. It may be overdrawn; then nothing is given until that is back."""

    def __init__(self, per_minute: int, now_s: float) -> None:
        """Full."""
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._at_s = now_s

    def level(self, now_s: float) -> int:
        """What is left, in whole units; 0 where it is overdrawn."""
        return max(0, int(self._filled(now_s)))

    def wait_s(self, amount: float, now_s: float) -> float:
        """Seconds until `amount` may be taken, 0 for at once. More than it can hold may be taken once it is full."""
        missing = min(amount, self.per_minute) - self._filled(now_s)
        return max(0.0, missing * _MINUTE_S / self.per_minute)

    def full_s(self, now_s: float) -> float:
        """Seconds until it is full if nothing is taken."""
        return self.wait_s(self.per_minute, now_s)

    def take(self, amount: float, now_s: float) -> None:
        """Take it, even if that overdraws; a negative amount is given back."""
        self._level = min(self._filled(now_s) - amount, float(self.per_minute))
        self._at_s = now_s

    def _filled(self, now_s: float) -> float:
        gained = max(0.0, now_s - self._at_s) * self.per_minute / _MINUTE_S
        return min(self._level + gained, float(self.per_minute))
