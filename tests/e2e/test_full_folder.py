"""The folder of the sockets is full: a start is refused in one sentence, and a running service waits for space."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import openai
import psutil
import pytest

from histrio.testing.launched import LaunchedServer
from histrio.testing.toy import write_toy_model
from histrio.testing.wait import eventually

pytestmark = [pytest.mark.slow_start, pytest.mark.timeout(180)]

PROMPTS = [[1 + i, 50, 3] for i in range(4)]
MOUNT = 'mount -t tmpfs -o "mode=0700,size=64k,nr_inodes=$1" tmpfs "$2" && shift 2 && exec "$@"'


def needs(folder: Path) -> str:
    remedy = "free some space there (bytes and inodes), or name another private folder in XDG_RUNTIME_DIR"
    return f"the sockets of this run need a folder in {folder}: No space left on device; {remedy}"


def in_small_folder(folder: Path, num_inodes: int) -> list[str]:
    """A command that runs the one that follows where this folder takes only so many files, its own entry included."""
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNT, "sh", str(num_inodes), str(folder)]


def can_mount(folder: Path) -> bool:
    try:
        return subprocess.run([*in_small_folder(folder, 9), "true"], check=False, capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.fixture
def sockets() -> Iterator[Path]:
    with TemporaryDirectory(prefix="rt-") as short:
        folder = Path(short).resolve()
        if not can_mount(folder):
            pytest.skip("the system does not let this user mount a file system of its own")
        yield folder


def texts(server: LaunchedServer) -> list[str]:
    """Greedy answers, all at once."""

    async def all_at_once() -> list[str]:
        found: dict[int, str] = {}
        async with openai.AsyncOpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0) as client:

            async def one(index: int) -> None:
                answer = await client.completions.create(
                    model="toy",
                    prompt=PROMPTS[index],
                    max_tokens=30,
                    temperature=0,
                    extra_body={"ignore_eos": True},
                )
                found[index] = answer.choices[0].text

            async with anyio.create_task_group() as tasks:
                for index in range(len(PROMPTS)):
                    tasks.start_soon(one, index)
        return [found[index] for index in range(len(PROMPTS))]

    return anyio.run(all_at_once)


def fill(folder: Path) -> list[Path]:
    """Make files until no more can be made."""
    made: list[Path] = []
    while True:
        file = folder / f"other-{len(made)}"
        try:
            file.touch()
        except OSError:
            return made
        made.append(file)


@contextmanager
def aside(call: threading.Thread) -> Iterator[None]:
    call.start()
    try:
        yield
    finally:
        call.join()


def test_a_start_is_refused_with_the_folder_and_what_to_do(sockets: Path, tmp_path: Path) -> None:
    """There is room for the folder, its lock and one socket, and not for the file beside it."""
    model = write_toy_model(tmp_path / "toy")
    rt_launch = [sys.executable, "-m", "histrio.cli", "--model", str(model), "--backend", "toy", "--port", "0"]
    environment = f"XDG_RUNTIME_DIR={sockets}"
    ran = subprocess.run([*in_small_folder(sockets, 4), "env", environment, *rt_launch], capture_output=True, text=True)
    assert ran.returncode == 1
    assert ran.stderr == f"rt-launch: {needs(sockets)}\n"


def test_a_service_whose_folder_fills_up_waits_for_space(sockets: Path, tmp_path: Path) -> None:
    model = write_toy_model(tmp_path / "toy")
    log = tmp_path / "log.txt"
    server = LaunchedServer(
        *("--model", str(model), "--backend", "toy", "--set", "stage.options={step-s = 0.02}"),
        log=log,
        env={"XDG_RUNTIME_DIR": str(sockets)},
        within=in_small_folder(sockets, 50),
    )
    with server:
        undisturbed = texts(server)
        assert len(set(undisturbed)) == len(PROMPTS), "a control: other prompts give other texts"
        made = fill(Path(f"/proc/{server.process.pid}/root{sockets}"))
        assert made, "a control: there was room"

        def kill_and_free() -> None:
            for child in psutil.Process(server.process.pid).children():
                if "engine" in child.name():
                    child.kill()
            eventually(
                lambda: f"process engine.2: the sockets of this run need a folder in {sockets}" in log.read_text()
            )
            for file in made:
                file.unlink()

        with aside(threading.Thread(target=kill_and_free)):
            assert texts(server) == undisturbed
        assert "process engine.2 is up" in log.read_text()
        assert "Traceback" not in log.read_text()
