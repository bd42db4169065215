"""Steps with drafts are compared with steps without, of the same number of rows, on the machine as it is now."""

from __future__ import annotations

import pytest

from histrio.batching.speculation.cost import CostModel
from histrio.batching.speculation.plain_steps import PlainSteps

BUSY_S, NUM_PAIRS = 0.01, 400.0


def plain_steps(num_rows: int, busy_s: float = BUSY_S, waiting_s: float = 0.001, count: int = 100) -> PlainSteps:
    """What is known after so many steps."""
    cost = CostModel()
    for _ in range(16):
        cost.observe(num_rows, NUM_PAIRS, BUSY_S, 0)
    plain = PlainSteps(cost)
    for _ in range(count):
        plain.observe_busy(num_rows, NUM_PAIRS, busy_s)
        plain.observe_waiting(num_rows, waiting_s, busy_s)
    return plain


def test_a_step_like_all_others_is_not_longer() -> None:
    plain = plain_steps(4)
    assert plain.share_longer(4, NUM_PAIRS, BUSY_S, 0.001) == pytest.approx(0, abs=0.01)
    assert plain.share_longer(4, NUM_PAIRS, 1.5 * BUSY_S, 0.001) == pytest.approx(0.5, abs=0.01)
    assert plain.share_longer(4, NUM_PAIRS, BUSY_S, 0.004) == pytest.approx(0.3, abs=0.01), "it came later"


def test_what_slows_all_steps_down_does_not_make_one_longer() -> None:
    assert plain_steps(4, 2 * BUSY_S).share_longer(4, NUM_PAIRS, 2 * BUSY_S, 0.001) == pytest.approx(0, abs=0.01)
    assert plain_steps(4).share_longer(4, NUM_PAIRS, 2 * BUSY_S, 0.001) == pytest.approx(1, abs=0.01), "a control"


def test_one_stall_changes_little() -> None:
    plain = plain_steps(4)
    plain.observe_busy(4, NUM_PAIRS, 100 * BUSY_S)
    plain.observe_waiting(4, 100.0, BUSY_S)
    assert -0.5 < plain.share_longer(4, NUM_PAIRS, BUSY_S, 0.001) < 0


def test_each_new_number_of_rows_is_measured_first() -> None:
    plain = plain_steps(4, count=4)
    assert not plain.must_measure(4)
    assert not plain.must_measure(7), "of about so many rows"
    assert plain.must_measure(8)
    plain = plain_steps(4, count=3)
    assert plain.must_measure(4), "a control"


def test_where_steps_cannot_be_measured_drafts_do_not_wait_for_ever() -> None:
    plain = plain_steps(4, count=0)
    assert [plain.must_measure(4) for _ in range(20)] == [True] * 16 + [False] * 4
