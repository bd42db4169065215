"""One server of the demo model, and the clients that visit it, two at a time, from an environment of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from histrio.testing.launched import LaunchedServer

VARIABLE = "HISTRIO_CLIENTS"
REMEDY = f"set {VARIABLE} to a folder that python -m tests.clients.build_env makes"
PROGRAMS = Path(__file__).parent / "programs"
DOCUMENTED_URL = "http://127.0.0.1:3001"
"""Where the programs, and the lines of docs/clients.md, look for the server."""
TOUR_S = 150
SILENT = {
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "LANGSMITH_TRACING": "false",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "OPENAI_API_KEY": "none",
    "HF_HUB_OFFLINE": "1",
}
"""Clients ask this server alone."""


@pytest.fixture(scope="session")
def environment() -> Path:
    """The folder with the clients."""
    folder = os.environ.get(VARIABLE, "")
    if not folder:
        pytest.skip(f"no environment with other projects' clients: {REMEDY}")

    python = Path(folder).resolve() / "bin" / "python"
    assert python.is_file(), f"{VARIABLE} names {folder}, where no such environment is: {REMEDY}"
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def tours(
    environment: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[dict[str, Future[dict[str, Any]]]]:
    """What each selected program will have said, by its file's name."""
    scratch = tmp_path_factory.mktemp("clients")
    items: list[Any] = request.session.items
    names = {item.callspec.params["program"] for item in items if "tours" in item.fixturenames}
    with (
        LaunchedServer("--model", "demo", log=scratch / "log.txt") as server,
        ThreadPoolExecutor(max_workers=2) as pool,
    ):
        run = partial(_said, environment, scratch, server.base_url)
        yield {name: pool.submit(run, name) for name in sorted(names) if missing(environment, name) is None}


def missing(environment: Path, name: str) -> str | None:
    """Why a program cannot run here."""
    if name.endswith(".mjs"):
        has_node = shutil.which("node") is not None and (environment / "node" / "node_modules").is_dir()
        return None if has_node else "there are no packages of JavaScript in the environment"
    if name == "tour_litellm.py" and not any(environment.glob("lib/python3*/site-packages/litellm")):
        return "built without --large"
    return None


def _said(environment: Path, scratch: Path, url: str, name: str) -> dict[str, Any]:
    """The last line of a program that visits the server at `url`."""
    text = (PROGRAMS / name).read_text(encoding="utf-8")
    assert DOCUMENTED_URL in text
    program = scratch / name
    program.write_text(text.replace(DOCUMENTED_URL, url), encoding="utf-8")
    is_node = name.endswith(".mjs")
    # Node looks for packages from where it runs if the program comes by its standard input.
    command = ["node", "--input-type=module", "-"] if is_node else [environment / "bin" / "python", program]
    with program.open(encoding="utf-8") as source:
        ran = subprocess.run(
            command,
            stdin=source if is_node else subprocess.DEVNULL,
            cwd=environment / "node" if is_node else scratch,
            env={key: value for key, value in os.environ.items() if not key.startswith("PYTHON")} | SILENT,
            capture_output=True,
            text=True,
            timeout=TOUR_S,
        )
    assert ran.returncode == 0, f"{ran.stdout[-2000:]}\n{ran.stderr[-6000:]}"
    said: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return said
