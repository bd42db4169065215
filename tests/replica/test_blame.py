"""A request is to blame that fails alone where it failed before; what happens by chance is held against no request."""

from __future__ import annotations

import random

import pytest

from histrio.messages import FailedRow, FailedStep, OnTrial
from histrio.replica.blame import Blame

SAMPLER = "sampler 'dice' (games)"


def step(*rows: tuple[int, int, int], code: str = "", raises_again: bool = False) -> FailedStep:
    failed = [FailedRow(*row) for row in rows]
    return FailedStep(1, failed, code, is_request_code=bool(code), raises_again=raises_again)


def after(first: FailedStep | None, *, is_own_doing: bool = True) -> Blame:
    """A first failure in company, and request 7 alone behind it."""
    blame = Blame()
    assert blame.convicted(first, is_own_doing=is_own_doing) == 0
    blame.on_trial(OnTrial(7))
    return blame


COMPANY = step((6, 0, 3), (7, 9, 10), (8, 4, 5))


@pytest.mark.parametrize("row", [(7, 9, 10), (7, 0, 10), (7, 9, 14), (7, 8, 12)])
def test_a_second_failure_at_the_same_tokens_convicts(row: tuple[int, int, int]) -> None:
    assert after(COMPANY).convicted(step(row), is_own_doing=True) == 7
    assert after(COMPANY).convicted(step(row, raises_again=True), is_own_doing=False) == 7
    assert after(COMPANY).convicted(step(row), is_own_doing=False) == 0, "a control: a device, or a signal from outside"
    by_signal = after(COMPANY, is_own_doing=False)
    assert by_signal.convicted(step(row), is_own_doing=True) == 0, "a control: the first one may have come from outside"


@pytest.mark.parametrize("row", [(7, 10, 11), (7, 0, 9), (6, 9, 10)])
def test_a_second_failure_elsewhere_may_be_chance(row: tuple[int, int, int]) -> None:
    assert after(COMPANY).convicted(step(row), is_own_doing=True) == 0


def test_a_signal_convicts_in_the_same_code_of_requests_only() -> None:
    first = step((6, 0, 3), (7, 9, 10), code=SAMPLER)
    assert after(first, is_own_doing=False).convicted(step((7, 9, 10), code=SAMPLER), is_own_doing=False) == 7
    assert after(first).convicted(step((7, 9, 10), code="sampler 'other' (games)"), is_own_doing=False) == 0
    assert after(COMPANY).convicted(step((7, 9, 10), code=SAMPLER), is_own_doing=False) == 0
    assert after(None).convicted(step((7, 9, 10), code=SAMPLER), is_own_doing=False) == 0


def test_two_failures_during_trials_convict_wherever_they_are() -> None:
    blame = after(COMPANY)
    assert blame.convicted(step((7, 11, 12)), is_own_doing=False) == 0
    blame.on_trial(OnTrial(7))
    assert blame.convicted(step((7, 13, 14)), is_own_doing=False) == 7


def test_where_the_first_step_is_not_known_it_counts_how_far_the_request_has_come() -> None:
    assert after(None).convicted(None, is_own_doing=True) == 7
    blame = after(None)
    blame.on_trial(OnTrial(7, has_got_on=True))
    assert blame.convicted(None, is_own_doing=True) == 0


def test_a_failure_of_another_step_than_that_of_the_trial_is_not_its() -> None:
    blame = after(COMPANY)
    assert blame.convicted(step((6, 1, 2)), is_own_doing=True) == 0
    blame.on_trial(OnTrial(7))
    assert blame.convicted(step((6, 1, 2)), is_own_doing=True) == 0


def test_failure_points_are_forgotten_when_no_request_is_suspected_any_more() -> None:
    blame = after(COMPANY)
    blame.on_trial(OnTrial(0))
    blame.on_trial(OnTrial(7, has_got_on=True))
    assert blame.convicted(step((7, 9, 10)), is_own_doing=True) == 0


def test_why_a_signal_in_the_models_own_step_takes_a_third_failure() -> None:
    """Two kills from outside: the second one hits the tokens of the first in one trial of about eight."""
    rng = random.Random(3)
    num_same = num_convicted = 0
    for _ in range(2000):
        start = rng.randrange(9, 17)
        second = step((7, start, start + 1))
        num_same += start == 9
        num_convicted += after(COMPANY, is_own_doing=False).convicted(second, is_own_doing=False) != 0
    assert num_convicted == 0
    assert num_same > 100, "a control: the same tokens alone would have convicted so many that did nothing"
