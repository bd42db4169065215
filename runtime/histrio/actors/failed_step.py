"""A step has raised: which of its rows is to blame is found out at once, on the stage that failed.

Each row is computed again, alone. A row that raises the same error again both times it is tried, while another row of
the step passes in between, is to blame: a device that failed for a moment lets every row pass by then, and a device
that is broken lets none pass. A step of one row has no other row to compare with: it is only told that it raises again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum, auto

import msgspec

from histrio.actors.mailbox import FAILURES
from histrio.errors import is_out_of_memory
from histrio.messages import FailedStep

__all__ = ["blamed", "failed_step_of", "note_failed_step"]

log = logging.getLogger(__name__)

_LOOK_S = 2.0
"""Seconds after which no further row is computed: all requests wait for the answer."""
_ATTRIBUTE = "histrio_failed_step"


class _Outcome(Enum):
    PASSES = auto()
    RAISES_AGAIN = auto()
    RAISES_OTHER = auto()


def blamed(
    error: BaseException, step: FailedStep, compute_alone: Callable[[int], object], clock: Callable[[], float]
) -> FailedStep:
    """The same with what is found out; `compute_alone` computes one row by its index, and may raise anything.

    A lack of memory is no row's alone while several share it.
    """
    num_rows = len(step.requests)
    end = clock() + _LOOK_S
    if num_rows == 1:
        raises_again = _outcome(error, compute_alone, 0) is _Outcome.RAISES_AGAIN
        return msgspec.structs.replace(step, raises_again=raises_again)
    if is_out_of_memory(error):
        return step

    outcomes = []
    for index in range(num_rows):
        if clock() > end:
            log.warning("a step of %d rows raised, and computing each alone takes too long", num_rows)
            return step
        outcomes.append(_outcome(error, compute_alone, index))
    if _Outcome.PASSES not in outcomes:
        return step

    again = [index for index, outcome in enumerate(outcomes) if outcome is _Outcome.RAISES_AGAIN]
    # A device that failed for a moment, and had recovered when it came to the others, lets these pass now.
    found = [step.requests[index] for index in again if _outcome(error, compute_alone, index) is _Outcome.RAISES_AGAIN]
    if found:
        log.error("the rows of requests %s raise alone, too; other rows of the step do not", found)
    return msgspec.structs.replace(step, culprits=found)


def note_failed_step(error: BaseException, step: FailedStep) -> None:
    """Attach the step to the error, so that the actor that reports the error can name the step."""
    setattr(error, _ATTRIBUTE, step)


def failed_step_of(error: BaseException) -> FailedStep | None:
    """The step that was noted."""
    step = getattr(error, _ATTRIBUTE, None)
    return step if isinstance(step, FailedStep) else None


def _outcome(error: BaseException, compute_alone: Callable[[int], object], index: int) -> _Outcome:
    try:
        compute_alone(index)
    except FAILURES as again:
        return _Outcome.RAISES_AGAIN if _origin(again) == _origin(error) else _Outcome.RAISES_OTHER
    return _Outcome.PASSES


def _origin(error: BaseException) -> tuple[object, ...]:
    """What was raised, and in which line of whose code."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return type(error), trace and (trace.tb_frame.f_code, trace.tb_lineno)
