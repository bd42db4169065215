"""What the README shows works: files and commands exist, the topology is the one in the folder, the code compiles."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from histrio.cli.options import parse_options
from histrio.config.topology import load_topology, parse_topology

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_files_and_folders_it_names_exist() -> None:
    named = set(re.findall(r"`((?:docs|runtime|api|plugins|tests|bench|topologies)/[\w./-]*)`", README))
    linked = set(re.findall(r"\]\(([\w./-]+)\)", README))

    assert len(named | linked) >= 12
    assert [path for path in sorted(named | linked) if not (ROOT / path).exists()] == []


def test_its_topology_is_the_file_with_two_stages() -> None:
    (text,) = _blocks("toml")

    assert parse_topology(text) == load_topology(ROOT / "topologies" / "two-stages.toml")
    assert parse_topology(text) != load_topology(ROOT / "topologies" / "single.toml")


def test_options_of_its_commands_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    commands = re.findall(r"^\.venv/bin/rt-launch (.+?)(?:  +.*)?$", README, re.MULTILINE)

    for command in commands:
        if command != "--help":
            parse_options(shlex.split(command))
    assert len(commands) >= 6
    with pytest.raises(SystemExit):
        parse_options(["--modle", "demo"])
    assert "--modle" in capsys.readouterr().err


def test_its_python_compiles_and_asks_for_the_demo_model() -> None:
    (code,) = _blocks("python")

    compile(code, "README.md", "exec")
    assert 'model="demo"' in code


def test_make_targets_it_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):.*##", makefile, re.MULTILINE))
    named = set(re.findall(r"`?\bmake (\w+)", re.sub(r"makes? (a|it)\b", "", README)))

    assert named <= targets
    assert {"run", "test", "check", "bench", "help"} <= targets


def test_make_alone_lists_the_targets() -> None:
    shown = subprocess.run(
        ["make", "-C", str(ROOT), "--no-print-directory"], capture_output=True, text=True, check=True
    )

    assert "make run" in shown.stdout
    assert "make test" in shown.stdout
    assert "pip" not in shown.stderr


def test_python_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert project["requires-python"] == ">=3.11,<3.14"
    assert "Python 3.11, 3.12 or 3.13" in README
    assert sys.version_info[:2] >= (3, 11)
