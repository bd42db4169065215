"""Draft lengths follow what drafts cost and how often they come true."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Ids
from itertools import product

import msgspec
import pytest

from histrio.batching.sequence import Sequence
from histrio.batching.speculation.acceptance_rate import AcceptanceRate
from histrio.batching.speculation.cost import CostModel
from histrio.batching.speculation.draft_lengths import tokens_gained, worthwhile_lengths
from histrio.batching.speculation.speculation import Speculation
from histrio.config.settings import SpeculationSettings
from histrio.contracts.drafter import Draft
from histrio.messages import Generate

LIMITS = SpeculationSettings()
FOLLOW = 0.15


def length_of_one(rate: float, price: float, limits: SpeculationSettings = LIMITS) -> int:
    return worthwhile_lengths([rate], limits, price, 0.0)[0]


def best_by_search(rate: float, price: float) -> int:
    """The length at which the last drafted token still gives more than it costs."""
    return max((n for n in range(LIMITS.max_speculation + 1) if n == 0 or rate**n > price), default=0)


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("price", [0.01, 0.05, 0.3, 0.6, 0.9])
def test_the_last_token_drafted_is_the_last_that_pays(rate: float, price: float) -> None:
    assert length_of_one(rate, price) == best_by_search(rate, price)
    both = worthwhile_lengths([rate], LIMITS, price / 3, 2 * price / 3)
    assert both == [best_by_search(rate, price)], "for one sequence, drafting and verifying cost alike"


@pytest.mark.parametrize("drafting", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("rates", [[0.9, 0.3], [0.8, 0.8, 0.1], [0.95, 0.6, 0.6]])
def test_no_other_lengths_give_more_together(rates: list[float], drafting: float) -> None:
    limits, verifying = SpeculationSettings(max_speculation=4), 0.15

    def profit(lengths: Iterable[int]) -> float:
        lengths = list(lengths)
        cost = verifying * sum(lengths) + drafting * max(lengths)
        return tokens_gained(zip(rates, lengths, strict=True)) - cost

    chosen = worthwhile_lengths(rates, limits, verifying, drafting)
    best = max(profit(lengths) for lengths in product(range(limits.max_speculation + 1), repeat=len(rates)))
    assert profit(chosen) == pytest.approx(best)
    assert profit([each + 40 for each in chosen]) < best, "a control: there are worse ones"


def test_one_that_goes_far_alone_pays_for_all_the_drafting() -> None:
    assert worthwhile_lengths([0.9] * 8, LIMITS, 0.05, 2.0) == [8] * 8
    assert worthwhile_lengths([0.9] + [0.06] * 7, LIMITS, 0.05, 2.0) == [0] * 8


def test_nothing_is_drafted_where_every_token_costs_its_full_price() -> None:
    assert length_of_one(0.98, 1.0) == 0
    assert length_of_one(0.98, 0.01) == LIMITS.max_speculation


def test_bounds_and_a_fixed_length_are_honoured() -> None:
    assert length_of_one(0.1, 0.9, SpeculationSettings(min_speculation=2)) == 2
    assert length_of_one(0.9, 0.001, SpeculationSettings(max_speculation=3)) == 3
    assert length_of_one(0.1, 0.9, SpeculationSettings(speculation_length=5, adaptive=False)) == 5


def test_the_tokens_gained_are_those_before_the_first_wrong_one() -> None:
    assert tokens_gained([(0.5, 3)]) == pytest.approx(0.5 + 0.25 + 0.125)
    assert tokens_gained([(0.5, 3), (0.0, 4), (0.9, 0)]) == pytest.approx(0.875)


def observed(
    num_drafts: int, num_drafted: int, num_accepted: int, rate: AcceptanceRate | None = None
) -> AcceptanceRate:
    rate = rate or AcceptanceRate()
    for _ in range(num_drafts):
        rate.observe(num_drafted, num_accepted, FOLLOW)
    return rate


def test_the_rate_follows_what_comes_true_and_forgets_when_nothing_is_tried() -> None:
    first = AcceptanceRate().rate
    acceptance = observed(20, 4, 0)
    low = acceptance.rate
    acceptance.forget(400, home=first, share=0.003)
    again = acceptance.rate
    assert low < 0.1 < again < first < observed(20, 4, 4, acceptance).rate


def test_forgetting_at_once_is_forgetting_step_by_step() -> None:
    at_once, by_steps = observed(5, 4, 1), observed(5, 4, 1)
    at_once.forget(100, home=0.7, share=0.01)
    for _ in range(100):
        by_steps.forget(1, home=0.7, share=0.01)
    assert at_once.rate == pytest.approx(by_steps.rate)
    by_steps.forget(1, home=0.7, share=0.01)
    assert at_once.rate != pytest.approx(by_steps.rate), "a control: one more is another rate"


def test_several_that_came_true_count_one_by_one() -> None:
    at_once, by_tokens = observed(200, 4, 2), observed(200, 4, 2)
    at_once.observe(4, 3, FOLLOW)
    for num_accepted in (1, 1, 1, 0):
        by_tokens.observe(1, num_accepted, FOLLOW)
    assert at_once.rate == pytest.approx(by_tokens.rate)
    assert at_once.num_seen == by_tokens.num_seen


def test_a_few_rejected_drafts_are_enough_to_doubt_and_a_few_accepted_ones_to_hope() -> None:
    assert observed(6, 2, 0).rate < 0.15
    assert observed(6, 2, 2).rate > 0.9


def test_forgetting_leads_to_where_others_are() -> None:
    acceptance = AcceptanceRate()
    acceptance.forget(2000, home=0.2, share=0.003)
    assert acceptance.rate == pytest.approx(0.2, abs=0.01)


class LastTokens:
    """A drafter that always has an idea; a cost model with a surcharge."""

    def __init__(self, num_found: int) -> None:
        self.num_found = num_found

    def open(self, command: Generate, ids: Ids[int]) -> None:
        """Nothing to remember."""

    def extend(self, request: int, ids: Ids[int]) -> None:
        """Nothing to remember."""

    def propose(self, lengths: Mapping[int, int]) -> dict[int, Draft]:
        return {request: Draft([7] * lengths[request]) for request in list(lengths)[: self.num_found]}

    def close(self, request: int) -> None:
        """Nothing to forget."""

    def shutdown(self) -> None:
        """Nothing to free."""


class Cost(CostModel):
    """One token costs a tenth of a step of all; any draft a quarter of it."""

    def predict(self, num_tokens: int, num_pairs: float) -> float:
        return 1.0

    def plain_seconds(self, num_rows: int, num_pairs: float) -> float:
        return 1.0

    def seconds_of_token(self, start: int) -> float:
        return 0.1 / NUM_SEQUENCES

    def surcharge(self, num_rows: int) -> float:
        return 0.25


NUM_SEQUENCES = 16


def num_drafting(num_found: int, limits: SpeculationSettings = LIMITS, num_right: int = 0) -> int:
    """Of 16 sequences, for so many of which the drafter has an idea, after `num_right` accepted drafts."""
    speculation = Speculation(limits, LastTokens(num_found), Cost(), lambda: 0.0)
    sequences = [Sequence.from_command(Generate(index, [1, 2], 2, 100)) for index in range(NUM_SEQUENCES)]
    for sequence in sequences if num_right else ():
        sequence.drafted.acceptance.observe(num_right, num_right, FOLLOW)
    speculation.set_price(NUM_SEQUENCES, 2 * NUM_SEQUENCES)
    speculation.propose(sequences)
    return sum(bool(sequence.drafted.ids) for sequence in sequences)


def test_few_drafts_do_not_make_a_whole_batch_wait() -> None:
    assert num_drafting(1) == 0
    assert num_drafting(12) == 12
    assert num_drafting(12, num_right=500) == 12, "a rate of 1 is no reason to stop"
    assert num_drafting(1, SpeculationSettings(adaptive=False)) == 1, "a control: a fixed length is honoured"
    assert num_drafting(1, SpeculationSettings(min_speculation=1)) == 1


def test_limits_travel_as_json() -> None:
    limits = SpeculationSettings(speculation_length=3, min_speculation=1, max_speculation=5, adaptive=False)
    assert msgspec.json.decode(msgspec.json.encode(limits), type=SpeculationSettings) == limits
