"""What drafts cost is measured: drafting, where every sequence had a draft, and whole steps against plain ones."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Tokens

from histrio.batching.sequence import Sequence
from histrio.batching.speculation.cost import CostModel
from histrio.batching.speculation.speculation import Speculation
from histrio.batching.step_plan import Plan
from histrio.config.settings import SpeculationSettings
from histrio.contracts.drafter import Draft
from histrio.messages import Ask, Generate, Row


class SlowDrafter:
    """Takes `seconds` for each round, and leaves out whom it is told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.seconds = 0.0
        self.left_out: set[int] = set()
        self.num_rounds = 0

    def open(self, command: Generate, ids: Tokens[int]) -> None:
        """Nothing to remember."""

    def extend(self, request: int, ids: Tokens[int]) -> None:
        """Nothing to remember."""

    def propose(self, lengths: Mapping[int, int]) -> dict[int, Draft]:
        self.now += self.seconds
        self.num_rounds += 1
        return {request: Draft([7] * count) for request, count in lengths.items() if request not in self.left_out}

    def close(self, request: int) -> None:
        """Nothing to forget."""

    def shutdown(self) -> None:
        """Nothing to free."""


STEP_S = 0.01


def make(drafter: SlowDrafter) -> Speculation:
    cost = CostModel()
    for num_tokens in (1, 2, 4, 8, 16, 32, 64, 128) * 2:
        cost.observe(num_tokens, num_tokens * 10, STEP_S + 0.00001 * num_tokens)
    return Speculation(SpeculationSettings(), drafter, cost, clock=lambda: drafter.now)


def play(
    speculation: Speculation,
    drafter: SlowDrafter,
    count: int,
    bound: int | None = None,
    *,
    lost_s: float = 0.0,
    num_right: int = 0,
    busy_s: float = STEP_S,
) -> int:
    """A step of so many sequences, each with `num_right` accepted drafts; how many tokens were drafted for the first.

    It comes `lost_s` later if sequences may have drafts, because these prevent async scheduling.
    """
    commands = [Generate(index + 1, [1, 2, 3], 3, 900, Ask(max_speculation=bound)) for index in range(count)]
    sequences = [Sequence.from_command(command) for command in commands]
    speculation.set_price(count, 3 * count)
    speculation.propose(sequences)
    drafts = [token for sequence in sequences for token in sequence.drafted.ids]
    num_drafted = len(sequences[0].drafted.ids)
    may_draft = any(speculation.may_draft(sequence) for sequence in sequences)
    for sequence in sequences:
        if sequence.drafted.ids:
            speculation.judge(sequence, 1 + num_right)
    rows = [Row(slot, 2, 1, 1, []) for slot in range(count)]
    plan = Plan(1, [], rows, [3] * (count + len(drafts)), sequences, [], 10.0 * count, drafts, {}, len(drafts))
    drafter.now += busy_s + may_draft * lost_s
    speculation.settle(plan, busy_s)
    return num_drafted


def measured(drafter: SlowDrafter, *counts: int) -> Speculation:
    """It knows what steps of so many sequences take without drafts."""
    speculation = make(drafter)
    for count in counts:
        while not speculation._plain._of(count).num_measured == 4:
            assert play(speculation, drafter, count) == 0
    return speculation


def test_nothing_is_drafted_before_steps_without_drafts_were_measured() -> None:
    drafter = SlowDrafter()
    speculation = make(drafter)
    # How the first one was scheduled is not known.
    assert [play(speculation, drafter, 4) > 0 for _ in range(6)] == [False] * 5 + [True]


def test_a_draft_that_costs_a_step_is_not_made_again() -> None:
    drafter = SlowDrafter()
    speculation = measured(drafter, 4)
    drafter.seconds = 0.5
    assert play(speculation, drafter, 4) > 0, "the price is not known yet"
    assert not any(play(speculation, drafter, 4) for _ in range(100))
    assert drafter.num_rounds == 1


def test_a_round_that_leaves_someone_out_says_nothing_of_the_price() -> None:
    def num_drafted_later(left_out: set[int]) -> int:
        drafter = SlowDrafter()
        speculation = measured(drafter, 4)
        drafter.seconds, drafter.left_out = 0.03, left_out
        assert play(speculation, drafter, 4) > 0
        drafter.seconds, drafter.left_out = 0.0, set()
        return sum(play(speculation, drafter, 4) for _ in range(8))

    assert num_drafted_later({2}) > num_drafted_later(set()), "it was preparing for the others"


def test_what_many_cost_is_not_held_against_one() -> None:
    drafter = SlowDrafter()
    speculation = measured(drafter, 1, 32)
    drafter.seconds = 0.2
    assert play(speculation, drafter, 32, num_right=3) > 0
    assert not any(play(speculation, drafter, 32) for _ in range(10)), "a control"
    assert any(play(speculation, drafter, 1) for _ in range(10))


def num_rounds(lost_s: float = 0.0, drafting_s: float = 0.0) -> int:
    """Of a drafter that finds nothing, in 500 steps of four sequences, which take 10 ms."""
    drafter = SlowDrafter()
    speculation = make(drafter)
    drafter.seconds, drafter.left_out = drafting_s, {1, 2, 3, 4}
    for _ in range(500):
        play(speculation, drafter, 4, lost_s=lost_s)
    return drafter.num_rounds


def test_a_drafter_that_finds_nothing_is_asked_less_often_the_more_it_costs() -> None:
    assert num_rounds(drafting_s=0.00001) == 500 - 5
    assert 40 < num_rounds(drafting_s=0.001) < 80
    assert num_rounds(drafting_s=0.01) < 8


def test_what_is_lost_without_async_scheduling_is_a_cost_of_drafts() -> None:
    assert num_rounds(lost_s=0.0) == 500 - 5, "a control"
    assert 40 < num_rounds(lost_s=0.001) < 80


def test_a_step_after_one_with_drafts_is_no_measure_for_steps_without() -> None:
    drafter = SlowDrafter()
    speculation = measured(drafter, 4)
    assert play(speculation, drafter, 4) > 0
    before = speculation._plain.busy_s(4, 40)
    drafter.left_out = {1, 2, 3, 4}
    assert play(speculation, drafter, 4, busy_s=2 * STEP_S) == 0
    assert speculation._plain.busy_s(4, 40) == before
    assert play(speculation, drafter, 4, busy_s=2 * STEP_S) == 0
    assert speculation._plain.busy_s(4, 40) > before, "a control: the second one in a row"


def test_steps_without_drafts_earn_nothing_for_drafts() -> None:
    def num_drafted_after(num_steps: int, bound: int | None) -> int:
        drafter = SlowDrafter()
        speculation = measured(drafter, 4)
        for _ in range(2):
            speculation._account.enter_drafted(0.0, 4.0)
        for _ in range(num_steps):
            play(speculation, drafter, 4, bound)
        return sum(play(speculation, drafter, 4) for _ in range(8))

    assert num_drafted_after(2000, 0) == 0
    assert num_drafted_after(2000, None) > 0, "a control"


def test_what_cost_too_much_is_tried_again_some_day() -> None:
    drafter = SlowDrafter()
    speculation = measured(drafter, 4)
    drafter.seconds = 0.2
    play(speculation, drafter, 4)
    rounds = [play(speculation, drafter, 4) for _ in range(1500)]
    assert not any(rounds[:200])
    assert any(rounds)
    assert drafter.num_rounds < 8
