"""Draft lengths follow what drafts cost and how often they come true."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest

from histrio.drafting import Draft
from histrio.engine.cost import CostModel
from histrio.engine.sequence import Sequence
from histrio.engine.speculation import Acceptance, Speculation, SpeculationLimits, worthwhile_length
from histrio.messages import Generate

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


def test_a_few_wrong_guesses_are_enough_to_doubt_and_a_few_right_ones_to_hope() -> None:
    doubted, hopeful = Acceptance(), Acceptance()
    for _ in range(6):
        doubted.observe(2, 0)
        hopeful.observe(2, 2)
    assert doubted.rate < 0.1
    assert hopeful.rate > 0.9


def test_forgetting_leads_to_where_others_are() -> None:
    acceptance = Acceptance()
    for _ in range(2000):
        acceptance.observe(0, 0, home=0.2)
    assert acceptance.rate == pytest.approx(0.2, abs=0.01)


class Guesses:
    """A drafter that always has an idea; a cost model with a surcharge."""

    def __init__(self, num_found: int) -> None:
        self.num_found = num_found

    def open(self, order: Generate, ids: list[int]) -> None:
        """Nothing to remember."""

    def extend(self, request: int, ids: list[int]) -> None:
        """Nothing to remember."""

    def propose(self, wanted: Mapping[int, int]) -> dict[int, Draft]:
        return {request: Draft([7] * wanted[request]) for request in list(wanted)[: self.num_found]}

    def close(self, request: int) -> None:
        """Nothing to forget."""

    def shutdown(self) -> None:
        """Nothing to free."""


class Cost(CostModel):
    """One token costs a tenth of a step of all; any draft a quarter of it."""

    def predict(self, num_tokens: int, num_pairs: float) -> float:
        return 1.0

    def seconds_of_token(self, start: int) -> float:
        return 0.1 / NUM_SEQUENCES

    def surcharge(self, num_rows: int) -> float:
        return 0.25


NUM_SEQUENCES = 16


def num_drafting(num_found: int, limits: SpeculationLimits = LIMITS, num_right: int = 0) -> int:
    """Of 16 sequences, for so many of which the drafter has an idea, after `num_right` guesses that came true."""
    speculation = Speculation(limits, Guesses(num_found), Cost(), lambda: 0.0)
    sequences = [Sequence.from_order(Generate(index, [1, 2], 2, 100)) for index in range(NUM_SEQUENCES)]
    for sequence in sequences if num_right else ():
        sequence.acceptance.observe(num_right, num_right)
    speculation.set_price(NUM_SEQUENCES, 2 * NUM_SEQUENCES)
    speculation.propose(sequences)
    return sum(bool(sequence.drafts) for sequence in sequences)


def test_few_drafts_do_not_make_a_whole_batch_wait() -> None:
    assert num_drafting(1) == 0
    assert num_drafting(12) == 12
    assert num_drafting(12, num_right=500) == 12, "a rate of 1 is no reason to stop"
    assert num_drafting(1, SpeculationLimits(is_adaptive=False)) == 1, "a control: a fixed length is honoured"
    assert num_drafting(1, SpeculationLimits(least=1)) == 1


def test_limits_travel_as_json() -> None:
    limits = SpeculationLimits(3, 1, 5, False)
    assert msgspec.json.decode(msgspec.json.encode(limits), type=SpeculationLimits) == limits
