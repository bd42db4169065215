"""Draft lengths follow what drafts cost and how often they come true."""

from __future__ import annotations

import msgspec
import pytest

from histrio.engine.speculation import Acceptance, SpeculationLimits, worthwhile_length

LIMITS = SpeculationLimits()


def best_by_search(rate: float, price: float) -> int:
    """The length at which the last drafted token still gives more than it costs."""
    return max((n for n in range(LIMITS.most + 1) if n == 0 or rate**n > price), default=0)


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("price", [0.01, 0.05, 0.3, 0.6, 0.9])
def test_the_last_token_drafted_is_the_last_that_pays(rate: float, price: float) -> None:
    assert worthwhile_length(rate, LIMITS, price) == best_by_search(rate, price)


def test_nothing_is_drafted_where_every_token_costs_its_full_price() -> None:
    assert worthwhile_length(0.98, LIMITS, 1.0) == 0
    assert worthwhile_length(0.98, LIMITS, 0.01) == LIMITS.most


def test_bounds_and_a_fixed_length_are_honoured() -> None:
    assert worthwhile_length(0.1, SpeculationLimits(least=2), 0.9) == 2
    assert worthwhile_length(0.9, SpeculationLimits(most=3), 0.001) == 3
    assert worthwhile_length(0.1, SpeculationLimits(length=5, is_adaptive=False), 0.9) == 5


def test_the_rate_follows_what_comes_true_and_forgets_when_nothing_is_tried() -> None:
    acceptance = Acceptance()
    first = acceptance.rate
    for _ in range(20):
        acceptance.observe(4, 0)
    low = acceptance.rate
    for _ in range(400):
        acceptance.observe(0, 0)
    again = acceptance.rate
    for _ in range(20):
        acceptance.observe(4, 4)
    assert low < 0.1 < again < first < acceptance.rate


def test_limits_travel_as_json() -> None:
    limits = SpeculationLimits(3, 1, 5, False)
    assert msgspec.json.decode(msgspec.json.encode(limits), type=SpeculationLimits) == limits
