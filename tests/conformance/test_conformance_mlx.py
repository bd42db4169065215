"""The MLX backend passes the kit, on whatever device mlx has here."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit_runs import committed, failures, names, run_cli

from histrio.testing.conformance.report import read_report


@pytest.mark.slow_start
@pytest.mark.timeout(180)  # three processes import mlx, and one torch as well
def test_mlx_conforms(tmp_path: Path) -> None:
    pytest.importorskip("mlx.core", reason="mlx is not installed")
    pytest.importorskip("histrio_mlx", reason="histrio-mlx is not installed")
    done = run_cli("mlx", tmp_path / "report.json")
    assert done.returncode == 0, done.stdout

    report = read_report(tmp_path / "report.json")
    assert report.models == ["llama", "qwen3", "qwen3_tied"]
    assert failures(report) == set()
    assert names(report, "passed") == names(committed("mlx"), "passed"), "write the report in docs/conformance/ anew"
