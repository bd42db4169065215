"""For tests of the conformance kit: a process that runs it again and again, and what it found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import msgspec

from histrio.testing.conformance.report import Report, read_report

HERE = Path(__file__).parent
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Tiny models need no more, and others compute here too."""


class KitRuns:
    """One interpreter for many runs. `plugins` are folders with distributions for it and its children."""

    def __init__(self, *plugins: Path) -> None:
        path = os.pathsep.join([str(HERE), *map(str, plugins), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "run_defects.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Looking for plugins takes a fifth of each run.
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            text=True,
        )

    def __enter__(self) -> KitRuns:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=30)

    def run(self, backend: str, *arguments: str, module: str = "", **options: str) -> Report:
        """One run of the kit, of a module, or of `module::test`. Raises `AssertionError` where it made no report."""
        given = [word for key, value in options.items() for word in ("--backend-option", f"{key}={value}")]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        target = ".".join(filter(None, ["histrio.testing.conformance", module]))
        self._process.stdin.write(json.dumps([target, "--backend", backend, *given, *arguments]) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "said" not in answer, answer["said"]
        return msgspec.convert(answer, Report)


def failures(report: Report) -> set[str]:
    """Names of the tests that failed, without module and `test_`."""
    return {_short(test) for test, result in report.results.items() if result.outcome == "failed"}


def names(report: Report, outcome: str | None = None) -> set[str]:
    """Names of all tests, or of those with this outcome."""
    return {_short(test) for test, result in report.results.items() if outcome in (None, result.outcome)}


def committed(backend: str) -> Report:
    """The report in the docs."""
    return read_report(HERE.parents[1] / "docs" / "conformance" / f"{backend}.json")


def run_cli(backend: str, report: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The kit as a stranger runs it, from a folder of their own."""
    plugin = ["-p", "histrio.testing.conformance.plugin"]
    kit = ["--pyargs", "histrio.testing.conformance", "--backend", backend, "--conformance-report", str(report)]
    environment = {**os.environ, **ONE_THREAD}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin, *kit, *arguments],
        cwd=report.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def _short(test: str) -> str:
    return test.split("::")[-1].removeprefix("test_")
