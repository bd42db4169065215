"""A server in an environment of its own, made by the one command that `docs/cpu.md` gives."""

from __future__ import annotations

import os
import subprocess
import venv
from pathlib import Path

import pytest

from tests.pip_environment import REPOSITORY

MOST_BYTES = 120_000_000
ASK = """
import json, sys, urllib.request
from pathlib import Path
from histrio.testing.launched import LaunchedServer
with LaunchedServer("--model", "demo", log=Path(sys.argv[1])) as server:
    body = json.dumps({"model": "demo", "prompt": "Hello", "max_tokens": 3}).encode()
    asked = urllib.request.Request(f"{server.base_url}/v1/completions", body, {"content-type": "application/json"})
    print(json.load(urllib.request.urlopen(asked, timeout=30))["usage"]["completion_tokens"])
"""


@pytest.mark.thorough
@pytest.mark.slow_start
@pytest.mark.timeout(600)  # fetches thirty packages, and compiles the library
def test_a_server_without_torch_takes_less_than_120_megabytes(tmp_path: Path) -> None:
    folder = tmp_path / "environment"
    venv.create(folder, with_pip=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    empty_bytes = size_of(packages)
    python = str(folder / "bin" / "python")
    command = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "-r", "requirements-cpu.txt"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if "No matching distribution found" in done.stderr:
        pytest.skip("packages cannot be fetched here")
    assert done.returncode == 0, done.stderr

    assert size_of(packages) - empty_bytes < MOST_BYTES
    assert not (packages / "torch").exists()
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    asked = subprocess.run(
        [python, "-c", ASK, str(tmp_path / "log")], cwd=tmp_path, env=clean, capture_output=True, text=True
    )
    assert asked.stdout.strip() == "3", asked.stderr


def size_of(folder: Path) -> int:
    """Bytes of its files, as the disk keeps them."""
    return sum(file.lstat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())
