"""Whether the request that is alone in a replica brought it down.

It did if its row was in a step that failed before, and now fails alone, at the same tokens and in the same code, and no
one outside the process can have done that. What fails by itself (a device, a process that is killed from outside) hits
any step: it seldom comes back to the same tokens of the same request, and where that can happen it does not count.
"""

from __future__ import annotations

from typing import NamedTuple

from histrio.messages import FailedStep, OnTrial

__all__ = ["Blame"]


class _FailurePoint(NamedTuple):
    """How far a sequence was when its step failed: at tokens `start:end`, in which code."""

    start: int
    end: int
    code: str
    is_own_doing: bool
    """The failure came from inside the process."""

    def is_same(self, other: _FailurePoint) -> bool:
        """Whether both computed some token in common, in the same code. With drafts, or as a prompt, a step has more
        tokens of a row than another time."""
        return self.start < other.end and other.start < self.end and self.code == other.code


class Blame:
    """Remembers where the suspects were when their steps failed."""

    def __init__(self) -> None:
        self._trial = OnTrial(0)
        self._doubted = 0
        """The request during whose trial the replica went down once already, maybe by chance."""
        self._points: dict[int, _FailurePoint] = {}
        """Request → its point in the last failed step that it took part in, while any request is suspected."""
        self._is_suspicion_own = False
        """Whether a failure that made the present suspects came from inside, and not by a signal, say."""

    def on_trial(self, trial: OnTrial) -> None:
        """This request is alone in the replica; with 0 no request is suspected any more."""
        self._trial = trial
        if not trial.request:
            self._points.clear()
            self._is_suspicion_own = False

    def convicted(self, step: FailedStep | None, *, is_own_doing: bool) -> int:
        """The replica is down: the request that brought it down, 0 for none. `step` is the one that ran, if that is
        known; `is_own_doing`: nothing outside the process can have ended it.

        Whatever else happened, a replica that goes down in two trials of the same request has it to blame.
        """
        trial, self._trial = self._trial, OnTrial(0)
        raises_again = step is not None and step.raises_again
        is_own_in_step = is_own_doing or raises_again or (step is not None and step.is_request_code)
        rows = [] if step is None else step.rows
        code = "" if step is None else step.code
        points = {row.request: _FailurePoint(row.start, row.end, code, is_own_in_step) for row in rows}
        before, now = self._points.get(trial.request), points.get(trial.request)
        self._points |= points
        if not trial.request:
            self._is_suspicion_own |= is_own_doing or raises_again
            return 0
        if points and now is None:
            return 0
        if before is not None:
            is_proof = now is not None and before.is_same(now)
            is_proof = is_proof and (raises_again or (is_own_in_step and before.is_own_doing))
        else:  # the step that failed before is not known: how far the request has come tells less
            is_proof = raises_again or (is_own_doing and self._is_suspicion_own)
            is_proof = is_proof and not trial.has_got_on
        if is_proof or trial.request == self._doubted:
            return trial.request

        self._doubted = trial.request
        return 0
