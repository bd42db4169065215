"""Results of a run as JSON, one entry per test with all its models and cuts taken together."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from histrio.testing.conformance.kit import Kit
from histrio.testing.conformance.plugin import KIT

__all__ = ["Recorder", "Report", "TestResult", "read_report"]


class TestResult(msgspec.Struct, frozen=True):
    """What one test found in all its cases."""

    __test__ = False

    outcome: str
    """`failed` if any case failed, `passed` if any passed, else `skipped`."""
    num_cases: int = 1
    """How many cases had this outcome."""
    reason: str = ""
    """Why the first such case was skipped or failed."""


class Report(msgspec.Struct, frozen=True):
    """A run of the kit."""

    backend: str
    level: str
    models: list[str]
    refused: dict[str, str]
    """Model → why the backend does not take it."""
    capabilities: dict[str, list[str]]
    """Model → what the opened backend declared."""
    results: dict[str, TestResult]
    """`file::test` → result."""


def read_report(path: Path) -> Report:
    """A report from its file."""
    return msgspec.json.decode(path.read_bytes(), type=Report)


class Recorder:
    """Listens to pytest, and writes the report at the end."""

    def __init__(self, kit: Kit, path: Path) -> None:
        self._kit = kit
        self._path = path
        self._cases: dict[str, list[tuple[str, str]]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how each case ended: its call, or its set-up where there was no call."""
        file, _, test = report.nodeid.partition("::")
        is_ours = (KIT / Path(file).name).exists()
        if not is_ours or (report.when != "call" and report.passed):
            return

        name = f"{Path(file).stem}::{test.partition('[')[0]}"
        self._cases.setdefault(name, []).append((report.outcome, _reason(report)))

    def pytest_sessionfinish(self) -> None:
        """Write the file."""
        kit = self._kit
        results = {name: _taken_together(cases) for name, cases in self._cases.items()}
        report = Report(kit.name, kit.level, [*kit.models, *kit.text_models], kit.refused, kit.declared, results)
        self._path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def _taken_together(cases: list[tuple[str, str]]) -> TestResult:
    outcomes = [outcome for outcome, _ in cases]
    worst = next(outcome for outcome in ("failed", "passed", "skipped") if outcome in outcomes)
    reasons = [reason for outcome, reason in cases if outcome == worst and reason]
    return TestResult(worst, outcomes.count(worst), reasons[0] if reasons else "")


def _reason(report: pytest.TestReport) -> str:
    if report.skipped and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return report.longreprtext.strip().splitlines()[-1] if report.failed else ""
