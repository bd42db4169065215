"""Drafts that don't pay cost a small share of the time, whatever one costs and whichever estimate is wrong."""

from __future__ import annotations

import random

import pytest

from histrio.batching.speculation.draft_account import ALLOWANCE, MOST_SAVED, DraftAccount

NUM_STEPS = 20_000


def share_lost(cost: float, saved: float = 0.0, drafting: float = 0.0) -> float:
    """Of the time of many steps: what drafts have cost beyond what they saved, made whenever the account allows it."""
    account, lost = DraftAccount(), 0.0
    for _ in range(NUM_STEPS):
        if not account.is_open:
            account.enter_plain()
            continue
        account.pay(drafting)
        account.enter_drafted(saved, cost)
        lost += drafting + cost - saved
    return lost / (NUM_STEPS + lost)


@pytest.mark.parametrize("cost", [0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("drafting", [0.0, 0.6, 1.9])
def test_what_is_lost_is_bounded(cost: float, drafting: float) -> None:
    one_more = cost + drafting
    assert 0 < share_lost(cost, drafting=drafting) <= ALLOWANCE + (MOST_SAVED + one_more) / NUM_STEPS


def test_drafts_that_pay_are_never_stopped() -> None:
    account, rng = DraftAccount(), random.Random(1)
    for _ in range(NUM_STEPS):
        assert account.is_open
        account.enter_drafted(saved=0.5, longer=rng.uniform(0.0, 0.8))


def test_what_was_saved_long_ago_is_lost_at_most_once() -> None:
    account = DraftAccount()
    for _ in range(NUM_STEPS):
        account.enter_drafted(saved=3.0, longer=0.1)
    num_drafted = 0
    while account.is_open:
        account.enter_drafted(saved=0.0, longer=0.5)
        num_drafted += 1
    assert num_drafted == MOST_SAVED / 0.5


def test_a_stall_is_not_held_against_drafts() -> None:
    account = DraftAccount()
    before = account.balance
    account.enter_drafted(saved=0.0, longer=500.0)
    account.pay(500.0)
    assert account.balance == before - 8
