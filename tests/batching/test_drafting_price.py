"""What a draft costs is learned from rounds in which every sequence had one, for each size of a batch."""

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


def make(drafter: SlowDrafter) -> Speculation:
    cost = CostModel()
    for num_tokens in (1, 2, 4, 8, 16, 32, 64, 128) * 2:
        cost.observe(num_tokens, num_tokens * 10, 0.01 + 0.00001 * num_tokens)
    return Speculation(SpeculationSettings(), drafter, cost, clock=lambda: drafter.now)


def play(speculation: Speculation, count: int, max_speculation: int | None = None) -> int:
    """A step of so many sequences, in which nothing comes true; how many tokens were drafted for the first."""
    commands = [Generate(index + 1, [1, 2, 3], 3, 900, Ask(max_speculation=max_speculation)) for index in range(count)]
    sequences = [Sequence.from_command(command) for command in commands]
    speculation.set_price(count, 3 * count)
    speculation.propose(sequences)
    rows = [Row(slot, 2, 1, 1, []) for slot in range(count)]
    speculation.settle(Plan(1, [], rows, [3] * count, sequences, [], 10.0 * count, [], {}, 0), 0.01)
    return len(sequences[0].drafted.ids)


def test_a_draft_that_costs_a_step_is_not_made_again() -> None:
    drafter = SlowDrafter()
    speculation = make(drafter)
    drafter.seconds = 0.5
    assert play(speculation, 4) > 0, "the price is not known yet"
    assert not any(play(speculation, 4) for _ in range(100))
    assert drafter.num_rounds == 1


def test_a_round_that_leaves_someone_out_says_nothing_of_the_price() -> None:
    drafter = SlowDrafter()
    speculation = make(drafter)
    drafter.seconds, drafter.left_out = 0.2, {2}
    assert play(speculation, 4) > 0
    drafter.seconds, drafter.left_out = 0.0, set()
    assert play(speculation, 4) > 0, "it was preparing for the others"


def test_what_many_cost_is_not_held_against_one() -> None:
    drafter = SlowDrafter()
    speculation = make(drafter)
    drafter.seconds = 0.2
    assert play(speculation, 32) > 0
    assert play(speculation, 32) == 0, "a control"
    assert any(play(speculation, 1) for _ in range(10)), "after a pause for all"


def num_rounds_of_a_drafter_that_finds_nothing(seconds: float) -> int:
    """In 60 steps of four sequences, which take about 10 ms."""
    drafter = SlowDrafter()
    speculation = make(drafter)
    drafter.seconds, drafter.left_out = seconds, {1, 2, 3, 4}
    for _ in range(60):
        play(speculation, 4)
    return drafter.num_rounds


def test_a_drafter_that_finds_nothing_is_asked_less_often_the_more_it_costs() -> None:
    assert num_rounds_of_a_drafter_that_finds_nothing(0.00001) == 60
    assert num_rounds_of_a_drafter_that_finds_nothing(0.0001) == 60 // 3
    assert num_rounds_of_a_drafter_that_finds_nothing(0.001) == 60 // 8 + 1


def test_steps_without_drafts_earn_nothing_for_drafts() -> None:
    def num_drafted_after(num_steps: int, bound: int | None) -> int:
        drafter = SlowDrafter()
        speculation = make(drafter)
        for _ in range(3):
            speculation._account.pay(4)
        for _ in range(num_steps):
            play(speculation, 4, max_speculation=bound)
        return sum(play(speculation, 4) for _ in range(8))

    assert num_drafted_after(4000, 0) == 0
    assert num_drafted_after(4000, None) > 0, "a control"


def test_what_cost_too_much_is_tried_again_some_day() -> None:
    drafter = SlowDrafter()
    speculation = make(drafter)
    drafter.seconds = 0.2
    play(speculation, 4)
    rounds = [play(speculation, 4) for _ in range(1500)]
    assert not any(rounds[:200])
    assert any(rounds)
    assert drafter.num_rounds < 8
