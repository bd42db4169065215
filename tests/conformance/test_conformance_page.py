"""The table in the docs is what its reports say, and the reports name the tests that the kit has."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

from histrio.testing.conformance.plugin import KIT
from histrio.testing.conformance.report import Report, TestResult, read_report
from histrio.testing.conformance.table import tables

ROOT = Path(__file__).parents[2]
REPORTS = sorted((ROOT / "docs" / "conformance").glob("*.json"))


def test_the_page_is_what_its_script_writes() -> None:
    spec = importlib.util.spec_from_file_location("list_conformance", ROOT / "docs" / "list_conformance.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "run: python docs/list_conformance.py"


@pytest.mark.parametrize("file", REPORTS, ids=lambda file: file.stem)
def test_reports_have_every_test_of_their_level_and_no_failure(file: Path) -> None:
    report = read_report(file)
    written = {
        f"{module.stem}::{node.name}"
        for module in KIT.glob(f"test_{report.level}_*.py")
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }

    assert set(report.results) == written, "run the kit again"
    assert {result.outcome for result in report.results.values()} <= {"passed", "skipped"}


def test_cells_say_how_many_passed_or_why_not() -> None:
    results = {"m::test_a_law": TestResult("passed", 3), "m::test_other": TestResult("failed", 1, "it broke | badly")}
    one = Report("one", "stage", ["toy"], {}, {}, results)
    two = Report("two", "stage", ["toy"], {}, {}, {"m::test_a_law": TestResult("skipped", 1, "not declared")})
    text = tables([one, two])

    assert "| a law | passed (3) | skipped [1] |" in text
    assert "| other | failed [2] | – |" in text
    assert text.endswith("1. not declared\n2. it broke \\| badly\n")
