"""The kit as a stranger runs it: on the toy backends, on none, and beside other tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from kit_runs import committed, failures, names, run_cli

from histrio.testing.conformance.plugin import KIT
from histrio.testing.conformance.report import read_report
from histrio.testing.toy import write_toy_model

TOY = "[histrio]\ntoy = histrio.testing.plugin\n"
pytestmark = pytest.mark.timeout(60)  # each run is an interpreter of its own


@pytest.mark.parametrize("backend", ["toy", "toy-engine"])
def test_the_toys_conform(backend: str, tmp_path: Path) -> None:
    done = run_cli(backend, tmp_path / "report.json")
    assert done.returncode == 0, done.stdout

    report = read_report(tmp_path / "report.json")
    assert report.models == ["toy"]
    assert "qwen3" in report.refused
    assert failures(report) == set()
    assert names(report, "passed") == names(committed(backend), "passed"), "write the report in docs/conformance/ anew"


def test_a_backend_is_asked_for(tmp_path: Path) -> None:
    done = pytest_in(tmp_path, "--pyargs", "histrio.testing.conformance")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "name it with --backend" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--backend", "warp-drive"], "there is no backend 'warp-drive'"),
        (["--backend", "no_module:Factory"], "no backend factory at 'no_module:Factory'"),
        (["--backend", "toy", "--backend-option", "fast"], "write it as KEY=VALUE"),
        (["--backend", "toy", "--backend-model", "no-such"], "name a folder, or some of toy, llama, qwen3, qwen3_tied"),
        (["--backend", "toy", "--backend-model", "llama"], "the toy backend cannot run 'llama'"),
    ],
)
def test_mistakes_are_answered_with_the_reason(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = pytest_in(tmp_path, "--pyargs", "histrio.testing.conformance", *arguments)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert said in done.stderr


def test_a_model_of_ones_own_and_options_are_taken(tmp_path: Path) -> None:
    model = write_toy_model(tmp_path / "mine", num_layers=6)
    selected = ["-k", "every_split or reference", "--backend-option", "step-s=0"]
    done = run_cli("toy", tmp_path / "report.json", "--backend-model", str(model), *selected)
    assert done.returncode == 0, done.stdout

    report = read_report(tmp_path / "report.json")
    assert report.models == ["mine"]
    assert report.results["test_stage_splits::test_every_split_equals_the_whole"].num_cases == 4


def test_without_a_backend_the_plugin_leaves_other_tests_alone(tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text("def test_own(): pass\n")
    done = pytest_in(tmp_path, "test_own.py", str(KIT))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_the_plugin_is_found_by_its_entry_point_and_is_one_however_often(tmp_path: Path) -> None:
    for index in range(2):
        info = tmp_path / f"site{index}" / "histrio-0.0.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: histrio\nVersion: 0.0.0\n")
        plugin = "histrio.testing.conformance.plugin"
        (info / "entry_points.txt").write_text(f"[pytest11]\n{plugin} = {plugin}\n{TOY}")
    path = f"{tmp_path / 'site0'}:{tmp_path / 'site1'}"
    (tmp_path / "test_own.py").write_text("def test_own(): pass\n")
    done = pytest_in(tmp_path, "test_own.py", path=path)
    assert "1 passed" in done.stdout, done.stderr

    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--pyargs", "histrio.testing.conformance"]
    environment = {**os.environ, "PYTHONPATH": path}
    found = subprocess.run(
        [*command, "--backend", "toy", "-k", "sane"], cwd=tmp_path, env=environment, capture_output=True, check=False
    )
    assert b"1 passed" in found.stdout, found.stderr


def test_the_plugin_imports_nothing_heavy() -> None:
    code = (
        "import sys, pytest, histrio.testing.conformance.plugin;"
        "sys.exit(bool({'numpy', 'zmq', 'msgspec', 'anyio'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def pytest_in(folder: Path, *arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """Pytest with the kit's plugin, in a folder that has no settings."""
    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "-p", "histrio.testing.conformance.plugin"]
    environment = {**os.environ, "PYTHONPATH": path} if path else None
    return subprocess.run(
        [*command, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
