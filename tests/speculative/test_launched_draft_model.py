"""rt-launch with a topology that names a draft model: it loads in the engine's process, and its drafts are accepted."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from pathlib import Path

import openai
import pytest

from histrio.testing.launched import LaunchedServer
from histrio.testing.wait import eventually

pytestmark = [pytest.mark.slow_start, pytest.mark.timeout(120)]

TOPOLOGY = """
[model]
path = "demo"
dtype = "float32"

[engine]
drafter = "{drafter}"
adaptive = false
speculation-length = 3

[engine.drafter-options]
{options}

[[stage]]
backend = "torch"
"""
QUESTION = "Count from 3 to 25."


def write(folder: Path, drafter: str, options: str) -> Path:
    file = folder / f"{drafter}.toml"
    file.write_text(TOPOLOGY.format(drafter=drafter, options=options))
    return file


def answer(server: LaunchedServer) -> str:
    with openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0) as client:
        found = client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": QUESTION}], max_tokens=48, temperature=0
        )
    assert found.choices[0].message.content
    return found.choices[0].message.content


def counted(server: LaunchedServer, name: str) -> float:
    with urllib.request.urlopen(f"{server.base_url}/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"histrio_{name}"))


def test_a_topology_names_its_draft_model(tmp_path: Path) -> None:
    file = write(tmp_path, "draft-model", 'model = "demo-draft"\nnum-cache-tokens = 4096')
    with LaunchedServer(str(file), log=tmp_path / "log.txt") as server:
        assert "3, 4, 5, 6, 7, 8, 9, 10" in answer(server)
        eventually(lambda: counted(server, "accepted_tokens_total") > 0)
        drafted, accepted = counted(server, "drafted_tokens_total"), counted(server, "accepted_tokens_total")
    assert 0 < accepted <= drafted


def test_a_draft_model_that_does_not_fit_is_refused_before_the_start(tmp_path: Path) -> None:
    file = write(tmp_path, "draft-model", f'model = "{tmp_path}/none"')
    command = [sys.executable, "-m", "histrio.cli", str(file), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "engine.drafter" in done.stdout + done.stderr
    assert f"there is no folder {tmp_path}/none" in done.stdout + done.stderr
