"""An engine process on the CPU backend has neither torch nor transformers in it."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from histrio.demo import target_path
from histrio.testing.launched import LaunchedServer

CHAIN = """
import sys
from histrio.testing.chain import StageChain
from histrio_cpu.factory import CpuFactory
print(StageChain(CpuFactory(), {model!r}, (2,)).greedy([5, 6, 7], 3))
print([name for name in ("histrio_cpu.backend", "torch", "transformers", "safetensors") if name in sys.modules])
"""


def test_loading_and_stepping_import_neither_torch_nor_transformers() -> None:
    code = CHAIN.format(model=str(target_path()))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "['histrio_cpu.backend']"


@pytest.mark.slow_start
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which libraries a process has loaded")
def test_a_server_on_the_cpu_backend_loads_no_torch(tmp_path: Path) -> None:
    with LaunchedServer("--model", "demo", "--backend", "cpu", log=tmp_path / "log") as server:
        body = json.dumps({"model": "demo", "prompt": "Hello", "max_tokens": 3}).encode()
        asked = urllib.request.Request(f"{server.base_url}/v1/completions", body, {"content-type": "application/json"})
        with urllib.request.urlopen(asked, timeout=30) as answered:
            assert json.load(answered)["usage"]["completion_tokens"] == 3
        process = psutil.Process(server.process.pid)
        loaded = [each.path for child in (process, *process.children()) for each in child.memory_maps()]

    assert any("libhistrio_cpu" in path for path in loaded)
    assert not any("libtorch" in path for path in loaded)
