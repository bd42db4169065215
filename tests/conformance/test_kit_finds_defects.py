"""The kit finds every defect of the deliberately broken backends, every one of its tests finds some, and it finds
nothing in healthy ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from histrio.testing.conformance.report import Report
from tests.conformance.broken_backend import (
    DEFECTS,
    DEFECTS_IN_PROCESSES,
    DEFECTS_OF_THE_LIMITED,
    DEFECTS_OF_THE_SINGLE,
)
from tests.conformance.broken_engine import ENGINE_DEFECTS
from tests.conformance.kit_runs import KitRuns, failures, names

pytestmark = pytest.mark.timeout(240)  # the first test waits for all runs, some sixty of a third of a second each

STAGE, ENGINE = "broken_backend:BrokenFactory", "broken_engine:BrokenEngineFactory"
SEPARATE = "broken_backend:SeparateFactory"
KINDS = {
    "stage": DEFECTS,
    "single": DEFECTS_OF_THE_SINGLE,
    "limited": DEFECTS_OF_THE_LIMITED,
    "processes": DEFECTS_IN_PROCESSES,
    "engine": ENGINE_DEFECTS,
}
ALL_DEFECTS = [(f"{kind} {defect}", test) for kind, defects in KINDS.items() for defect, test in defects.items()]
IN_WHOLE_MODULES = {
    "stage forgets-rewind",
    "stage mixes-rows",
    "stage slot-state-stays",
    "single slot-state-stays",
}
"""Of these the whole module runs: tests for which no defect is named find them too, or need what others left behind."""
REGISTERED = "[histrio]\nbroken = broken_backend\n"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KitRuns]:
    """The process that runs the kit; there the broken backend is installed, too."""
    folder: Path = tmp_path_factory.mktemp("site")
    info = folder / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(REGISTERED)
    with KitRuns(folder) as running:
        yield running


@pytest.fixture(scope="module")
def healthy(runs: KitRuns) -> dict[str, Report]:
    """Runs in which nothing is wrong."""
    return {
        "stage": runs.run(STAGE),
        "own ids": runs.run(STAGE, variant="own-ids"),
        "limited": runs.run(STAGE, variant="limited"),
        "single": runs.run(STAGE, variant="single"),
        "engine": runs.run(ENGINE),
        "processes": runs.run(SEPARATE),
    }


@pytest.fixture(scope="module")
def found(runs: KitRuns, healthy: dict[str, Report]) -> dict[str, set[str]]:
    """Defect → tests that failed, of the one that has to find it or of its whole module."""
    found = {}
    for kind, defects in KINDS.items():
        variant = {"variant": kind} if kind in ("single", "limited") else {}
        backend = {"engine": ENGINE, "processes": SEPARATE}.get(kind, STAGE)
        modules = {name.split("::test_")[1]: name.split("::")[0] for name in healthy[kind].results}
        for defect, test in defects.items():
            name = f"{kind} {defect}"
            target = modules[test] if name in IN_WHOLE_MODULES else f"{modules[test]}::test_{test}"
            found[name] = failures(runs.run(backend, module=target, defect=defect, **variant))
    found["boasts"] = failures(runs.run("broken_backend:BoastfulFactory", module="test_stage_contract"))
    found["boasts of requests"] = failures(runs.run("broken_engine:BoastfulEngineFactory"))
    in_processes = runs.run("broken-registered", module="test_stage_processes", defect="counts-layers-from-0")
    found["counts from 0 in processes"] = failures(in_processes)
    return found


@pytest.mark.parametrize(("defect", "test"), ALL_DEFECTS)
def test_every_defect_is_found(defect: str, test: str, found: dict[str, set[str]]) -> None:
    assert test in found[defect], f"found by {sorted(found[defect])}"


@pytest.mark.parametrize("kind", ["stage", "own ids", "limited", "single", "engine", "processes"])
def test_healthy_backends_pass(kind: str, healthy: dict[str, Report]) -> None:
    assert failures(healthy[kind]) == set()
    assert names(healthy[kind], "passed")


def test_every_test_of_the_kit_finds_some_defect(found: dict[str, set[str]], healthy: dict[str, Report]) -> None:
    everything = names(healthy["stage"]) | names(healthy["engine"])
    # Those of whole texts are for test_reader_defects.py.
    of_texts = {name.split("::test_")[1] for name in healthy["stage"].results if name.startswith("test_stage_texts")}
    assert everything - of_texts - set().union(*found.values()) == set()


def test_what_is_not_declared_is_skipped_with_the_reason(healthy: dict[str, Report]) -> None:
    result = healthy["limited"].results["test_stage_rewinds::test_rejected_drafts_leave_no_trace"]
    assert result.outcome == "skipped"
    assert result.reason == "rewind, all_position_logits not declared"
    assert "rejected_drafts_leave_no_trace" in names(healthy["stage"], "passed")
