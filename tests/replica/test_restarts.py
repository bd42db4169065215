"""Failures count in one place and are forgotten with the time of being up; those of a request do not count."""

from __future__ import annotations

from histrio.replica.restarts import RestartAccount


def fail_after(account: RestartAccount, now: float, up_s: float) -> bool:
    """It comes up at `now`, and fails so much later."""
    account.came_up(now)
    return account.failed(now + up_s)


def test_one_failure_more_than_the_limit_is_too_many() -> None:
    account = RestartAccount(2, 60.0)
    assert [fail_after(account, now, 1.0) for now in (0.0, 10.0, 20.0)] == [True, True, False]
    assert str(account) == "2 restarts in 60 s"


def test_failures_are_forgotten_with_the_time_of_being_up() -> None:
    account = RestartAccount(2, 60.0)
    assert all(fail_after(account, now, 30.0) for now in range(0, 1000, 31)), "two in a minute of being up"


def test_time_spent_on_starting_forgets_nothing() -> None:
    account = RestartAccount(2, 60.0)
    assert [fail_after(account, now, 1.0) for now in (0.0, 1000.0, 2000.0)] == [True, True, False]
    never_up = RestartAccount(2, 60.0)
    assert [never_up.failed(now) for now in (33.0, 66.0, 99.0)] == [True, True, False], "each start took half a minute"


def test_what_a_request_is_to_blame_for_counts_neither_time() -> None:
    account = RestartAccount(1, 60.0)
    for now in range(0, 1000, 2):
        assert fail_after(account, now, 0.1)
        account.came_up(now + 1)
        account.forgive(now + 1.5)
    assert fail_after(account, 2000.0, 0.1)
    assert not fail_after(account, 2001.0, 0.1), "a control: without a request to blame they count"


def test_a_second_request_found_out_in_one_go_forgives_no_older_failure() -> None:
    account = RestartAccount(1, 60.0)
    fail_after(account, 0.0, 50.0)
    fail_after(account, 100.0, 59.9)  # the first is forgotten by now
    account.forgive(170.0)
    fail_after(account, 180.0, 0.1)
    account.forgive(190.0)
    account.forgive(200.0)
    assert fail_after(account, 210.0, 0.1)
    assert not fail_after(account, 211.0, 0.1)


def test_restarts_back_off_and_begin_anew_once_it_has_been_up_for_long() -> None:
    account = RestartAccount(100, 60.0)
    delays = []
    for now in range(8):
        fail_after(account, now, 0.1)
        delays.append(account.delay_s)
    assert delays == [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    account.forgive(9.0)
    assert account.delay_s == 0.0, "the next start follows at once: what brought it down is gone"
    fail_after(account, 100.0, 61.0)
    assert account.delay_s == 0.0


def test_a_failure_that_left_a_doubt_is_forgiven_with_the_one_before() -> None:
    account = RestartAccount(2, 60.0)
    for now in range(0, 100, 3):
        assert fail_after(account, now, 0.1)
        assert fail_after(account, now + 1, 0.1)
        account.forgive(now + 2)


def test_what_was_settled_is_not_forgiven_later() -> None:
    account = RestartAccount(1, 60.0)
    assert fail_after(account, 0.0, 0.1)
    account.settled()
    account.forgive(1.0)
    assert not fail_after(account, 2.0, 0.1)
