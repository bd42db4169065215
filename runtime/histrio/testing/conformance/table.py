"""From reports of the kit to the Markdown table backend × test.

python -m histrio.testing.conformance.table toy.json torch.json
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from histrio.testing.conformance.report import Report, TestResult, read_report

__all__ = ["main", "tables"]

_ABSENT = "–"


def tables(reports: Sequence[Report]) -> str:
    """A table per level, a row per test, a column per backend; reasons stand below as numbered notes."""
    notes: dict[str, int] = {}
    parts = []
    for level, title in (("stage", "Stage backends"), ("engine", "Engine backends")):
        own = [report for report in reports if report.level == level]
        if own:
            parts += [f"### {title}", "", *_table(own, notes), ""]
    parts += [f"{number}. {reason}" for reason, number in notes.items()]
    return "\n".join(parts).rstrip() + "\n"


def main(files: Iterable[str]) -> None:
    """Print the tables of these reports."""
    print(tables([read_report(Path(file)) for file in files]), end="")


def _table(reports: Sequence[Report], notes: dict[str, int]) -> list[str]:
    tests = sorted({test for report in reports for test in report.results})
    lines = [_line(["test", *(f"`{report.backend}`" for report in reports)])]
    lines.append("|---" * (1 + len(reports)) + "|")
    lines.append(_line(["models", *(", ".join(report.models) for report in reports)]))
    for test in tests:
        cells = [_cell(report.results.get(test), notes) for report in reports]
        lines.append(_line([test.split("::")[-1].removeprefix("test_").replace("_", " "), *cells]))
    return lines


def _cell(result: TestResult | None, notes: dict[str, int]) -> str:
    if result is None:
        return _ABSENT
    if result.outcome == "passed":
        return f"passed ({result.num_cases})"

    number = notes.setdefault(" ".join(result.reason.split()).replace("|", "\\|"), len(notes) + 1)
    return f"{result.outcome} [{number}]"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main(sys.argv[1:])
