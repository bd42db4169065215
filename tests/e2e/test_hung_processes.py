"""Processes that hang in every phase of their life: each is found, and its streams go on with the same tokens.

Phases that a pure test of the judge covers as well run only with HISTRIO_FAULTS set.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

import anyio
import openai
import psutil
import pytest

from histrio.testing.launched import LaunchedServer
from histrio.testing.toy import write_toy_model
from histrio.testing.wait import eventually

pytestmark = [pytest.mark.slow_start, pytest.mark.timeout(180)]

PROMPTS = [[1 + i, 50, 3] for i in range(4)]
LONG_PROMPT = [list(range(5, 205))]
only_on_demand = pytest.mark.skipif("HISTRIO_FAULTS" not in os.environ, reason="long; set HISTRIO_FAULTS")


class World:
    """A server whose device hangs when the test says so."""

    def __init__(self, server: LaunchedServer, hang_folder: Path) -> None:
        self.server = server
        self._hang_folder = hang_folder

    def hang_in(self, call: str) -> None:
        """The next such call of the backend never returns."""
        (self._hang_folder / call).touch()

    @property
    def children(self) -> dict[int, psutil.Process]:
        """By number."""
        return {child.pid: child for child in psutil.Process(self.server.process.pid).children()}

    def started_since(self, before: Collection[int]) -> list[int]:
        """Processes that run their own program: until then their parent waits for them, whatever happens."""
        new = [child for pid, child in self.children.items() if pid not in before]
        return [child.pid for child in new if "histrio.children.child" in child.cmdline()]

    def kill_engine(self) -> None:
        """And not the process that tries grammars."""
        for child in self.children.values():
            if "engine" in child.name():
                child.kill()

    @property
    def num_killed(self) -> int:
        """Processes that the front ended for being hung."""
        lines = self.server.log.read_text().splitlines()
        return sum("killing process" in line and "cannot be reached" not in line for line in lines)

    def texts(self, prompts: list[list[int]], num_tokens: int = 30) -> list[str]:
        """Greedy answers, all at once."""
        return anyio.run(self._texts, prompts, num_tokens)

    async def _texts(self, prompts: list[list[int]], num_tokens: int) -> list[str]:
        texts: dict[int, str] = {}
        async with openai.AsyncOpenAI(base_url=f"{self.server.base_url}/v1", api_key="none", max_retries=0) as client:

            async def one(index: int) -> None:
                answer = await client.completions.create(
                    model="toy",
                    prompt=prompts[index],
                    max_tokens=num_tokens,
                    temperature=0,
                    extra_body={"ignore_eos": True},
                )
                texts[index] = answer.choices[0].text

            async with anyio.create_task_group() as tasks:
                for index in range(len(prompts)):
                    tasks.start_soon(one, index)
        return [texts[index] for index in range(len(prompts))]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("hung")
    model = write_toy_model(folder / "toy")
    hang_folder = folder / "hang"
    hang_folder.mkdir()
    limits = ["hang-timeout-s=2", "first-step-timeout-s=4", "load-timeout-s=6", "max-restarts=100"]
    settings = [argument for limit in limits for argument in ("--set", f"runtime.{limit}")]
    options = f"stage.options={{step-s = 0.02, hang-folder = {str(hang_folder)!r}}}"
    with LaunchedServer(
        "--model", str(model), "--backend", "toy", *settings, "--set", options, log=folder / "log.txt"
    ) as server:
        yield World(server, hang_folder)


@pytest.fixture
def undisturbed(world: World) -> list[str]:
    texts = world.texts(PROMPTS)
    assert len(set(texts)) == len(PROMPTS), "a control: other prompts give other texts"
    return texts


def test_a_device_that_hangs_while_nothing_runs_is_replaced(world: World, undisturbed: list[str]) -> None:
    killed = world.num_killed
    world.hang_in("close-slot")
    world.texts(PROMPTS[:1])  # ends before its slot is closed
    assert world.texts(PROMPTS) == undisturbed
    assert world.num_killed == killed + 1
    assert "has not handled its messages" in world.server.log.read_text()


@only_on_demand
def test_a_device_that_hangs_in_a_step_is_replaced(world: World, undisturbed: list[str]) -> None:
    killed = world.num_killed
    with _soon(lambda: world.hang_in("step")):
        assert world.texts(PROMPTS) == undisturbed
    assert world.num_killed == killed + 1


@only_on_demand
def test_a_device_that_hangs_in_the_first_step_of_a_size_is_replaced(world: World) -> None:
    killed = world.num_killed
    world.hang_in("step")
    once = world.texts(LONG_PROMPT)
    assert world.num_killed == killed + 1
    assert world.texts(LONG_PROMPT) == once
    assert world.num_killed == killed + 1, "a control"


def test_a_process_that_is_stopped_before_it_begins_is_replaced(world: World, undisturbed: list[str]) -> None:
    killed = world.num_killed
    before = world.children
    world.kill_engine()

    def stop_the_next() -> None:
        eventually(lambda: world.started_since(before))
        for pid in world.started_since(before):
            os.kill(pid, signal.SIGSTOP)

    with _soon(stop_the_next):
        assert world.texts(PROMPTS) == undisturbed
    assert world.num_killed == killed + 1
    assert "it is stopped" in world.server.log.read_text()


@only_on_demand
def test_a_device_that_hangs_while_it_loads_is_replaced(world: World, undisturbed: list[str]) -> None:
    killed = world.num_killed
    world.hang_in("open")
    world.kill_engine()
    assert world.texts(PROMPTS) == undisturbed
    assert world.num_killed == killed + 1
    assert "without any progress" in world.server.log.read_text()


def test_a_front_that_was_stopped_finds_its_children_well(world: World, undisturbed: list[str]) -> None:
    children, killed = world.children.keys(), world.num_killed

    def stop_for_a_while() -> None:
        world.server.process.send_signal(signal.SIGSTOP)
        time.sleep(3.0)  # twice as long as a process that is stopped may be so
        world.server.process.send_signal(signal.SIGCONT)

    with _soon(stop_for_a_while):
        assert world.texts(PROMPTS) == undisturbed
    assert world.texts(PROMPTS) == undisturbed
    assert world.children.keys() == children
    assert world.num_killed == killed


class _soon:
    """Does something in a thread while the block runs."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=call)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_exception: object) -> None:
        self._thread.join()


@only_on_demand
def test_sockets_that_were_removed_are_made_anew(world: World, undisturbed: list[str]) -> None:
    children = world.children
    sockets = {Path(each.laddr) for child in children.values() for each in child.net_connections("unix") if each.laddr}
    assert sockets, "a control"
    for folder in {socket.parent for socket in sockets}:
        shutil.rmtree(folder)
    world.kill_engine()
    assert world.texts(PROMPTS) == undisturbed
    assert "was removed; the front listens anew" in world.server.log.read_text()


def is_up_or_ended(server: LaunchedServer) -> bool:
    return server.health() == 200 or server.process.poll() is not None


@only_on_demand
@pytest.mark.timeout(1800)
def test_ten_starts_beside_eight_busy_loops_kill_no_process(tmp_path: Path) -> None:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(8)]
    try:
        for start in range(10):
            log = tmp_path / f"{start}.txt"
            began = time.monotonic()
            server = LaunchedServer("--model", "demo", "--stages=2", log=log)
            eventually(partial(is_up_or_ended, server), 170.0)
            print(f"start {start}: ready after {time.monotonic() - began:.1f} s")
            assert server.stop() == 0, server.log_tail()
            text = log.read_text()
            assert "killing process" not in text, text
            assert "engine.2" not in text, text
            assert text.count("is up, pid") == 2, text
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
