"""The kit as a stranger runs it: on the toy backends, on none, and beside other tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from histrio.testing.conformance.plugin import KIT
from histrio.testing.conformance.report import read_report
from histrio.testing.toy import write_toy_model
from tests.conformance.kit_runs import KitRuns, committed, failures, names, run_cli

TOY = "[histrio]\ntoy = histrio.testing.plugin\n"
pytestmark = pytest.mark.timeout(60)  # each run is an interpreter of its own


@pytest.fixture(scope="module")
def runs() -> Iterator[KitRuns]:
    """One process for runs that need none of their own."""
    with KitRuns() as running:
        yield running


def test_a_stranger_runs_the_kit_with_one_command(tmp_path: Path) -> None:
    done = run_cli("toy", tmp_path / "report.json", "-k", "sane or reference")
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
    assert names(read_report(tmp_path / "report.json")) == {
        "capacity_is_sane",
        "greedy_tokens_equal_the_reference",
        "states_of_a_text_equal_the_reference",
    }


@pytest.mark.parametrize("backend", ["toy", "toy-engine"])
def test_the_toys_conform(backend: str, runs: KitRuns) -> None:
    report = runs.run(backend)
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
        (["warp-drive"], "there is no backend 'warp-drive'"),
        (["no_module:Factory"], "no backend factory at 'no_module:Factory'"),
        (["toy", "--backend-option", "fast"], "write it as KEY=VALUE"),
        (["toy", "--backend-model", "no-such"], "name a folder, or some of toy, llama, qwen3, qwen3_tied"),
        (["toy", "--backend-model", "llama"], "the toy backend cannot run 'llama'"),
    ],
)
def test_mistakes_are_answered_with_the_reason(arguments: list[str], said: str, runs: KitRuns) -> None:
    with pytest.raises(AssertionError) as caught:
        runs.run(*arguments)
    assert said in str(caught.value)


def test_models_are_folders_or_names_and_options_are_taken(tmp_path: Path, runs: KitRuns) -> None:
    model = write_toy_model(tmp_path / "mine", num_layers=6)
    given = ["--backend-model", str(model), "--backend-model", "toy", "--backend-model", "llama"]
    report = runs.run("toy", *given, "-k", "every_split or reference", "--backend-option", "step-s=0")

    assert report.models == ["mine", "toy"]
    assert list(report.refused) == ["llama"]
    assert failures(report) == set()
    assert report.results["test_stage_splits::test_every_split_equals_the_whole"].num_cases == 4 + 7


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
    path = os.pathsep.join([str(tmp_path / "site0"), str(tmp_path / "site1")])
    (tmp_path / "test_own.py").write_text("def test_own(): pass\n")
    done = pytest_in(tmp_path, "test_own.py", path=path)
    assert "1 passed" in done.stdout, done.stderr

    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--pyargs", "histrio.testing.conformance"]
    environment = with_path(path)
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


def with_path(path: str) -> dict[str, str]:
    """The environment with these folders before those that sources of this checkout come from."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([path, os.environ.get("PYTHONPATH", "")])}


def pytest_in(folder: Path, *arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """Pytest with the kit's plugin, in a folder that has no settings."""
    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "-p", "histrio.testing.conformance.plugin"]
    environment = with_path(path) if path else None
    return subprocess.run(
        [*command, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
