"""An engine process on the CPU backend has neither torch nor transformers in it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from importlib.metadata import packages_distributions
from pathlib import Path

import psutil
import pytest

from histrio.demo import target_path
from histrio.testing.launched import LaunchedServer
from tests.pip_environment import REPOSITORY

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
        complete(server)
        process = psutil.Process(server.process.pid)
        loaded = [each.path for child in (process, *process.children()) for each in child.memory_maps()]

    assert any("libhistrio_cpu" in path for path in loaded)
    assert not any("libtorch" in path for path in loaded)


REQUIREMENTS = REPOSITORY / "requirements-cpu.txt"
IF_THERE = {"uvloop", "annotated-types", "opentelemetry-api", "setuptools"}
"""Imported where they are installed: by the front, by litestar, and by Python's own start."""
HEAVY = {
    *("torch", "transformers", "safetensors", "scipy", "pandas", "sympy", "pydantic", "sklearn", "PIL", "matplotlib"),
    *("requests", "aiohttp", "huggingface_hub", "openai", "mlx", "vllm", "sglang", "numba", "networkx", "pytest"),
}
"""What no process of a server on the CPU backend imports: each takes a good part of its start, or of its memory."""
NOTES_MODULES = """
import atexit, os, sys
name = "engine" if "histrio.children.child" in sys.orig_argv else "front"
atexit.register(lambda: open(os.path.join({folder!r}, name), "w").write("\\n".join(sys.modules)))
"""


@pytest.mark.slow_start
def test_neither_front_nor_engine_imports_what_takes_long(tmp_path: Path) -> None:
    plugin = tmp_path / "notes_modules.py"
    plugin.write_text(NOTES_MODULES.format(folder=str(tmp_path)))
    arguments = ("--model", "demo", "--backend", "cpu", "--plugin", str(plugin), "--set", "api.warm-grammars=false")
    with LaunchedServer(*arguments, log=tmp_path / "log") as server:
        complete(server)
    front, engine = ({*(tmp_path / name).read_text().split()} for name in ("front", "engine"))

    assert {"httptools", "tokenizers", "histrio_api.service"} <= front
    assert {"histrio_cpu.backend", "histrio.stage.actor"} <= engine
    assert (HEAVY & front, HEAVY & engine) == (set(), set())
    assert not {"httptools", "jinja2", "tokenizers", "histrio_api.service"} & engine
    assert not {"histrio_cpu.backend", "llguidance"} & front
    assert unlisted(front | engine) == set()
    assert unlisted(front | {"torch"}) == {"torch"}, "a control"


def unlisted(modules: set[str]) -> set[str]:
    """Packages of these modules that requirements-cpu.txt does not have."""
    lines = REQUIREMENTS.read_text().splitlines()
    listed = {re.split("[<>=]", line)[0] for line in lines if not line.startswith(("#", "."))}
    owners = packages_distributions()
    tops = (module for module in modules if "." not in module)
    found = {owner.lower().replace("_", "-") for module in tops for owner in owners.get(module, [])}
    return {each for each in found if not each.startswith("histrio")} - listed - IF_THERE


def complete(server: LaunchedServer) -> None:
    """Three tokens."""
    body = json.dumps({"model": "demo", "prompt": "Hello", "max_tokens": 3}).encode()
    asked = urllib.request.Request(f"{server.base_url}/v1/completions", body, {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=30) as answered:
        assert json.load(answered)["usage"]["completion_tokens"] == 3
