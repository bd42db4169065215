"""Which request is sent to the replica next, so that one that brings it down is found and ends alone.

Every request that was in the replica when it went down is a suspect. Suspects go back one at a time, each alone in the
replica, for a few tokens; a request that brings the replica down again while it is alone there is at fault. When all
suspects have been tried, they go on together, and with them those that came meanwhile. So a request at fault costs two
failures, however many run beside it, and the others lose nothing but time.
"""

from __future__ import annotations

from collections.abc import Collection

__all__ = ["LAG_TOKENS", "TRIAL_TOKENS", "Trials"]

TRIAL_TOKENS = 8
"""Tokens of a trial: at least as many as a request may have come further in the replica than was heard of it."""
LAG_TOKENS = 2
"""As many as it has come further most often: a request that brings the replica down does so at the same token again."""


class Trials:
    """Unfinished requests by where they are: waiting at the front, suspected, on trial, or sent."""

    def __init__(self) -> None:
        self._waiting: set[int] = set()
        self._suspects: dict[int, None] = {}
        """Suspected requests, in the order in which they are tried."""
        self._sent: set[int] = set()
        self.num_tokens = 0
        """Tokens of the trial so far."""
        self.current = 0
        """The request that is alone in the replica, 0 for none. It may have ended for its client: it is over when the
        replica is done with it."""

    @property
    def num_suspects(self) -> int:
        """Requests that have yet to be tried."""
        return len(self._suspects)

    def add(self, request: int) -> None:
        """A new request waits."""
        self._waiting.add(request)

    def take(self) -> list[int]:
        """The requests to send now: none beside one on trial, one suspect if there is any, else all that wait."""
        if self.current:
            return []
        if self._suspects:
            self.current = next(iter(self._suspects))
            del self._suspects[self.current]
            self.num_tokens = 0
            return [self.current]

        taken = sorted(self._waiting)
        self._sent.update(taken)
        self._waiting.clear()
        return taken

    def proven(self, *, is_sent: bool) -> None:
        """The one on trial did nothing wrong; it waits for the others, or runs on if its trial had no end."""
        (self._sent if is_sent else self._waiting).add(self.current)
        self.current = 0

    def over(self) -> None:
        """The replica is done with the one on trial, for good."""
        self.current = 0

    def forget(self, request: int) -> None:
        """A request has ended. One on trial stays there until it is `over`."""
        self._waiting.discard(request)
        self._sent.discard(request)
        self._suspects.pop(request, None)

    def down(self, suspects: Collection[int] | None = None, *, is_current_alive: bool) -> None:
        """The replica is gone: of what was in it those named are suspected, or all, the one that was on trial first of
        all."""
        first = [self.current] if self.current and is_current_alive else []
        suspected = self._sent if suspects is None else self._sent.intersection(suspects)
        self._suspects = dict.fromkeys([*first, *self._suspects, *sorted(suspected)])
        self._waiting.update(self._sent - suspected)
        self._sent.clear()
        self.current = 0
