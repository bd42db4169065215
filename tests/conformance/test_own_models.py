"""The kit takes a model with a state of constant size, and a judge of the author's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.constant_state import write_constant_state_model
from tests.conformance.kit_runs import KitRuns, failures, names

BACKEND = "constant_state:ConstantStateFactory"
REFERENCE = {"greedy_tokens_equal_the_reference"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_constant_state_model(tmp_path_factory.mktemp("constant") / "model")


@pytest.fixture(scope="module")
def runs() -> Iterator[KitRuns]:
    with KitRuns() as running:
        yield running


@pytest.mark.timeout(120)
def test_a_model_without_blocks_passes_with_a_judge_of_its_own(runs: KitRuns, model: Path) -> None:
    report = runs.run(BACKEND, "--backend-model", str(model), "--judge", "constant_state:judge")
    assert failures(report) == set()
    assert names(report, "passed") >= REFERENCE | {
        "ragged_rows_equal_single_rows",
        "a_rewind_is_refused_where_not_declared",
    }
    assert report.results["test_stage_contract::test_more_blocks_than_memory_holds_are_refused"].outcome == "skipped"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("judge", ["broken_judge", "shapeless_judge"])
def test_a_broken_judge_is_found_out(runs: KitRuns, model: Path, judge: str) -> None:
    arguments = ("--backend-model", str(model), "--judge", f"constant_state:{judge}")
    report = runs.run(BACKEND, *arguments, module="test_stage_reference")
    assert failures(report) == REFERENCE


def test_a_judge_that_is_not_there_is_named(runs: KitRuns, model: Path) -> None:
    with pytest.raises(AssertionError, match="there is no judge at 'constant_state:missing'"):
        runs.run(BACKEND, "--backend-model", str(model), "--judge", "constant_state:missing")
