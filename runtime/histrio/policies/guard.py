"""Policies of plugins, contained: a policy that raises or gives an invalid answer is replaced by the built-in one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from inspect import iscoroutine
from operator import index
from typing import Any

from histrio.contracts.gateway import Submission
from histrio.contracts.policy import AdmissionPolicy, BatchingPolicy, HearsOfEnds, Load, by_priority
from histrio.errors import RequestError
from histrio.messages import Generate

__all__ = ["AdmissionGuard", "guarded_handicap"]

_log = logging.getLogger(__name__)
_MOST_PLACES = 1_000_000_000
_FAULTS = (Exception, SystemExit)


def guarded_handicap(policy: BatchingPolicy) -> Callable[[Generate], int]:
    """The policy's handicap of a command; that of its priority from the policy's first fault on."""
    is_on = True

    def handicap(command: Generate) -> int:
        nonlocal is_on
        if is_on:
            try:
                return _checked_places(policy.handicap(command))
            except _FAULTS as error:
                is_on = False
                _say("requests enter by priority from now on: batching policy %r (%s) failed", policy, error)
        return by_priority(command)

    return handicap


class AdmissionGuard:
    """A plugin's admission policy. After its first fault, every request is accepted for which there are credits."""

    def __init__(self, policy: AdmissionPolicy | None) -> None:
        self._policy = policy
        self._hearing = policy if isinstance(policy, HearsOfEnds) else None
        """The same policy, if it wants to hear of ends."""

    def admit(self, submission: Submission, load: Load) -> None:
        """As `AdmissionPolicy.admit`."""
        if self._policy is None:
            return
        try:
            admit: Callable[..., Any] = self._policy.admit
            _check_nothing(admit(submission, load))
        except RequestError:
            raise
        except _FAULTS as error:
            self._give_up(error)

    def finished(self, submission: Submission) -> None:
        """As `HearsOfEnds.finished`, where the policy has it."""
        if self._hearing is None:
            return
        try:
            finished: Callable[..., Any] = self._hearing.finished
            _check_nothing(finished(submission))
        except _FAULTS as error:
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        policy, self._policy, self._hearing = self._policy, None, None
        _say("requests are accepted by credits from now on: admission policy %r (%s) failed", policy, error)


def _checked_places(places: Any) -> int:
    number = index(places)
    if not 0 <= number <= _MOST_PLACES:
        raise ValueError(f"a handicap of {number} places")
    return number


def _check_nothing(answer: Any) -> None:
    """Raise if the policy answered: a policy refuses by raising and has nothing to answer."""
    if iscoroutine(answer):
        answer.close()
    if answer is not None:
        raise TypeError(f"it answers a {type(answer).__name__}, where it has to raise or to return nothing")


def _say(text: str, policy: Any, error: BaseException) -> None:
    _log.error(text, getattr(policy, "name", type(policy).__name__), type(policy).__module__, exc_info=error)
