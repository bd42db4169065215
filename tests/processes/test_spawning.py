"""What the front does when the system starts no process: it waits for what is passing, and gives up what is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from histrio.actors.directory import Directory
from histrio.config.settings import SizeSettings
from histrio.config.topology import parse_tables
from histrio.errors import BackendError, EngineError, WireError
from histrio.net.io_thread import IoThread
from histrio.plan.resolve import resolve
from histrio.plugins.registry import Plugins
from histrio.processes import host as host_module
from histrio.processes import processes as processes_module
from histrio.processes.host import LocalHost
from histrio.processes.processes import ReplicaProcesses
from histrio.replica.lifecycle import RootActor, replica_actors
from histrio.replica.sizing import SizeLimits
from histrio.testing.wait import eventually_async

pytestmark = pytest.mark.anyio

LIMITS = SizeLimits(SizeSettings(max_batch_size=8, max_num_tokens_per_batch=128), max_sequence_length=256)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Child:
    """A process that runs until it is stopped."""

    pid = 0
    died_of_itself = False

    def __init__(self) -> None:
        self._is_over = anyio.Event()

    async def wait_or_abandon(self) -> str:
        await self._is_over.wait()
        return "ended"

    async def terminate(self, _grace_s: float) -> str:
        self._is_over.set()
        return "ended"


class World:
    """The processes of a replica of one stage, started by a system that the test makes refuse."""

    def __init__(self, folder: Path, plan: Any, refusals: list[Exception]) -> None:
        directory = Directory("front")
        self.root = RootActor(directory, LIMITS, replica_actors(1))
        directory.host("admission", _Deaf(), self.root)  # type: ignore[arg-type]
        self.links = IoThread("front", None, lambda _batch: None, lambda _process: None)
        here = LocalHost(folder, self.links)

        async def wait_for_host(_name: str) -> LocalHost:
            return here

        self.processes = ReplicaProcesses(self.root, plan, self.links, "secret", wait_for_host)
        self.refusals = refusals
        self.started = anyio.Event()

    async def spawn(self, *_spec: Any, **_options: Any) -> Child:
        if self.refusals:
            raise self.refusals.pop(0)
        self.started.set()
        return Child()


class _Deaf:
    """A dispatcher that drops everything."""

    def host(self, name: str, actor: Any) -> None:
        pass

    def post(self, name: str, message: Any) -> None:
        pass


@pytest.fixture
def make_world(
    tmp_path: Path, write_model: Callable[..., Path], plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., World]:
    def make(*refusals: Exception) -> World:
        plan = resolve(parse_tables({"model": {"path": str(write_model())}}), plugins)
        world = World(tmp_path, plan, list(refusals))
        monkeypatch.setattr(host_module, "spawn", world.spawn)
        monkeypatch.setattr(processes_module, "_SPAWN_DELAYS_S", (0.0, 0.0, 0.0))
        return world

    return make


async def test_what_the_system_lacks_for_a_while_is_waited_for(make_world: Callable[..., World]) -> None:
    world = make_world(EngineError("Too many open files"), EngineError("Too many open files"))
    async with world.processes.run():
        await eventually_async(world.started.is_set)
    assert world.root.failure is None


async def test_what_it_lacks_for_long_counts_as_failures(make_world: Callable[..., World]) -> None:
    world = make_world(*[EngineError("Too many open files")] * 100)
    world.root.restarts.max_restarts = 1
    async with world.processes.run():
        await eventually_async(lambda: world.root.failure is not None)
    assert "could not be started: Too many open files" in str(world.root.failure)
    assert len(world.refusals) == 100 - 2 * 3


async def test_a_folder_that_stays_full_ends_everything_with_the_reason(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_folder: Path) -> None:
        raise WireError("No space left on device")

    world = make_world()
    world.root.restarts.max_restarts = 0
    monkeypatch.setattr(host_module, "check_room", refuse)
    async with world.processes.run():
        await eventually_async(lambda: world.root.failure is not None)
    assert "process engine.1 could not be started: No space left on device" in str(world.root.failure)
    assert not world.started.is_set()


async def test_links_that_have_failed_end_everything(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes_module, "_LINKS_CHECK_S", 0.01)
    world = make_world()
    async with world.processes.run():
        with anyio.fail_after(10.0):
            await world.started.wait()
            assert world.root.failure is None, "a control"
            world.links.has_failed = True
            while world.root.failure is None:  # noqa: ASYNC110 - nothing announces it
                await anyio.sleep(0.01)
    assert "links to its processes have failed" in str(world.root.failure)


async def test_an_interpreter_that_cannot_be_started_ends_everything(make_world: Callable[..., World]) -> None:
    refusal = BackendError("cannot start process 'engine.1' with /x: Exec format error")
    world = make_world(refusal)
    async with world.processes.run():
        await eventually_async(lambda: world.root.failure is not None)
    assert world.root.failure is refusal
    assert not world.started.is_set()
