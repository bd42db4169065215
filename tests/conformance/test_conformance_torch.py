"""The torch backend passes the kit."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit_runs import committed, failures, names, run_cli

from histrio.testing.conformance.report import read_report


@pytest.mark.slow_start
@pytest.mark.timeout(180)  # three processes import torch
def test_torch_conforms(tmp_path: Path) -> None:
    done = run_cli("torch", tmp_path / "report.json")
    assert done.returncode == 0, done.stdout

    report = read_report(tmp_path / "report.json")
    assert report.models == ["llama", "qwen3", "qwen3_tied"]
    assert failures(report) == set()
    assert names(report, "passed") == names(committed("torch"), "passed"), "write the report in docs/conformance/ anew"
