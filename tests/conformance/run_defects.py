"""Runs the kit in this process, once per line of standard input, and prints one JSON report per run.

A line is the arguments of one run as JSON, the package or module first. One interpreter serves all runs, as each takes
less than its start would.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

import pytest

KIT = ["-p", "histrio.testing.conformance.plugin", "--pyargs"]
UNUSED = ("cacheprovider", "benchmark", "unraisableexception")
PLAIN = ["-q", "--tb=line", "-c", "/dev/null", *(word for name in UNUSED for word in ("-p", f"no:{name}"))]


def run(arguments: list[str]) -> dict[str, object]:
    """The report of one run, and what pytest printed if it made none."""
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        report = Path(folder) / "report.json"
        code = pytest.main([*KIT, *PLAIN, "--conformance-report", str(report), *arguments])
        found: dict[str, object] = json.loads(report.read_text()) if report.exists() else {"said": said.getvalue()}
    return {"code": int(code), **found}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
