"""Rewrites docs/conformance-table.md from the reports in docs/conformance/ and the list of known defects.

pytest --pyargs histrio.testing.conformance --backend NAME --conformance-report docs/conformance/NAME.json
python docs/list_conformance.py
"""

import sys
from importlib import import_module
from pathlib import Path

from histrio.testing.conformance.report import read_report
from histrio.testing.conformance.table import tables

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "docs" / "conformance"
PAGE = ROOT / "docs" / "conformance-table.md"
BACKENDS = ("toy", "torch", "cpu", "mlx", "sglang", "toy-engine", "sglang-engine")
HEAD = """# Conformance table

`python docs/list_conformance.py` generates this page from the reports in `docs/conformance/`, each
written by a run of the kit. The number in brackets is how many cases a test had: models, cuts,
chunk sizes. All runs were on CPUs under Linux, in float32; Metal, MPS and CUDA are *not run*. A –
is a test that the backend has not been run with yet.

"""
DEFECTS = """
## Known defects, and the tests that find them

`tests/conformance/` has backends with one defect each. The kit finds every defect, each of its
tests finds at least one, and it finds nothing in the variants without a defect.

| defect | found by (among others) |
|---|---|
"""


def page() -> str:
    """The whole page."""
    sys.path.insert(0, str(ROOT / "tests" / "conformance"))
    stages, engines = import_module("broken_backend"), import_module("broken_engine")
    defects = [stages.DEFECTS, stages.DEFECTS_OF_THE_SINGLE, stages.DEFECTS_OF_THE_LIMITED, engines.ENGINE_DEFECTS]
    reports = [read_report(file) for file in sorted(REPORTS.glob("*.json"), key=_sort_key)]
    rows = [f"| {_words(defect)} | {_words(test)} |" for each in defects for defect, test in each.items()]
    return HEAD + tables(reports).replace("### ", "## ") + DEFECTS + "\n".join(rows) + "\n"


def _sort_key(file: Path) -> tuple[int, str]:
    return (BACKENDS.index(file.stem) if file.stem in BACKENDS else len(BACKENDS), file.stem)


def _words(name: str) -> str:
    return name.replace("-", " ").replace("_", " ")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
