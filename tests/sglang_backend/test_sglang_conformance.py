"""A sample of the conformance kit in the environment that has SGLang; the reports in the docs are of all of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from histrio.testing.conformance.report import read_report

REPORTS = Path(__file__).parents[2] / "docs" / "conformance"
MODEL = "llama"
LEFT_OUT = "not 1+2 and not two_processes"
"""Three stages and stage actors would need three processes more; `test_sglang_processes.py` has them already."""
pytestmark = [pytest.mark.slow_start, pytest.mark.timeout(180)]  # several processes import SGLang


@pytest.mark.parametrize("backend", ["sglang", "sglang-engine"])
def test_the_backend_conforms(backend: str, sglang_python: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    kit = ["--pyargs", "histrio.testing.conformance", "--backend", backend, "--backend-model", MODEL, "-k", LEFT_OUT]
    # SGLang and what it imports warn; that is no failure of ours
    options = ["-q", "-p", "no:cacheprovider", "-W", "default", "--conformance-report", str(report)]
    done = subprocess.run(
        [sglang_python, "-m", "pytest", *options, *kit], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr

    found, written = read_report(report).results, read_report(REPORTS / f"{backend}.json").results
    outcomes = {name: result.outcome for name, result in found.items()}
    assert outcomes == {name: written[name].outcome for name in outcomes}, "write the report in the docs anew"
    assert len(outcomes) >= len(written) - 1
