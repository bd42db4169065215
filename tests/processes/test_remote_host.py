"""The machines of a cluster as the front sees them, told by messages alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from histrio.errors import EngineError
from histrio.hosts.folder import host_folder
from histrio.hosts.members import Member, Members
from histrio.messages import (
    PROTOCOL_VERSION,
    ChildEnded,
    EndChild,
    FailedStep,
    HostBeat,
    HostedChild,
    HostUp,
    Machines,
    Message,
    SpawnChild,
)
from histrio.net.keys import HostKey, LinkKeys, fingerprint
from histrio.processes.device import DeviceProcess
from histrio.processes.remote_host import HostsActor, RemoteHost
from histrio.testing.wait import eventually_async

pytestmark = pytest.mark.anyio

HEAD, STUDIO, ATTIC = (HostKey(bytes([index]) * 32) for index in range(3))
SPEC = DeviceProcess(
    process="stage1.1", secret="s", stages=[], num_stages=2, batching=None, log_format="text", log_level="info"
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Told:
    """Stands for the directory and the links: keeps what they are told."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Message]] = []
        self.forgotten: list[str] = []
        self.admitted: list[str] = []
        self.expelled: list[str] = []

    def tell(self, name: str, message: Message, /) -> None:
        self.messages.append((name, message))

    def route(self, peers: dict[str, str]) -> None:
        pass

    def forget(self, process: str) -> None:
        self.forgotten.append(process)

    def admit(self, peer_id: str) -> None:
        self.admitted.append(peer_id)

    def expel(self, peer_id: str) -> None:
        self.expelled.append(peer_id)


class World:
    def __init__(self, folder: Path) -> None:
        self.now = 100.0
        self.told = Told()
        self.members = Members(host_folder(folder))
        for key, name in ((STUDIO, "studio"), (ATTIC, "attic")):
            self.members.ask(Member(peer_id=key.peer_id, name=name))
            self.members.accept(fingerprint(key.peer_id))
        directory: Any = self.told
        keys = LinkKeys(HEAD.peer_id, "secret")
        self.hosts = HostsActor(directory, directory, self.members, keys, 4000, lambda: self.now)

    def up(self, key: HostKey = STUDIO, number: int = 1, protocol: int = PROTOCOL_VERSION) -> str:
        agent = f"@{key.peer_id}.{number}"
        self.hosts.receive(HostUp(agent, protocol, f"10.0.0.{2 + number}", "10.0.0.1"))
        return agent

    def beat(self, agent: str, *children: HostedChild) -> None:
        self.hosts.receive(HostBeat(agent, list(children)))

    @property
    def studio(self) -> RemoteHost:
        host = self.hosts.find("studio")
        assert host is not None
        return host


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "head")


async def test_a_machine_is_here_from_its_first_message_to_its_last(world: World) -> None:
    agent = world.up()
    assert [host.name for host in world.hosts.present] == ["studio"]
    assert set(world.told.admitted) == {STUDIO.peer_id, ATTIC.peer_id}, "all that are on the list may dial"
    world.hosts.lost(agent, "its link broke")
    assert world.hosts.present == []
    assert world.told.forgotten == [agent]


async def test_silence_is_noted_and_then_ends_it(world: World) -> None:
    agent = world.up()
    for _ in range(4):  # a drop of a wireless network: 3 s without a word
        world.now += 3.0
        world.hosts.check()
        assert world.studio.is_silent
        world.beat(agent)
        assert not world.studio.is_silent
    world.now += 5.5
    world.hosts.check()
    assert world.hosts.present == []


async def test_an_agent_that_starts_anew_takes_the_place_of_its_old_self(world: World) -> None:
    world.up(number=1)
    process = await world.studio.start(SPEC, None)
    world.up(number=2)
    assert [host.agent.rpartition(".")[2] for host in world.hosts.present] == ["2"]
    assert await process.wait_or_abandon() == "is lost with its machine studio"
    assert not process.died_of_itself


async def test_waiting_for_a_machine_ends_when_it_comes(world: World) -> None:
    found: list[object] = []

    async def wait() -> None:
        found.append(await world.hosts.wait_for("studio"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        world.up(ATTIC)
        await anyio.wait_all_tasks_blocked()
        assert not found
        world.up(STUDIO)
        await eventually_async(lambda: found)
    assert found == [world.studio]


async def test_a_process_there_is_started_watched_and_ended(world: World) -> None:
    agent = world.up()
    process = await world.studio.start(SPEC, "/opt/python")
    (name, command), *rest = world.told.messages
    assert name == agent
    assert not rest
    assert isinstance(command, SpawnChild)
    sent = msgspec.json.decode(command.payload, type=DeviceProcess)
    assert (command.process, command.python) == ("stage1.1", "/opt/python")
    assert sent.front_endpoint == f"curve://10.0.0.1:4000/{HEAD.peer_id}"
    assert sent.keys is not None
    assert sent.keys.secret == "", "each machine has its own"
    assert set(sent.keys.admitted) == {HEAD.peer_id, STUDIO.peer_id}

    assert process.look() is None
    step = FailedStep(7, [])
    world.beat(agent, HostedChild("stage1.1", True, 2.0, 3.0, step))
    view = process.look()
    assert view is not None
    assert (view.is_stopped, view.cpu_s, view.work_s()) == (True, 2.0, 3.0)
    assert process.failed_step() == step
    process.kill()
    assert world.told.messages[-1] == (agent, EndChild("stage1.1"))
    world.hosts.receive(ChildEnded("stage1.1", "killed by signal 9 (SIGKILL)"))
    assert await process.wait_or_abandon() == "killed by signal 9 (SIGKILL)"


async def test_how_it_ended_is_what_its_machine_says(world: World) -> None:
    world.up()
    process = await world.studio.start(SPEC, None)
    step = FailedStep(9, [], "sampler 'x' (y)")
    world.hosts.receive(ChildEnded("stage1.1", "ended with exit code 3", is_own_doing=True, step=step))
    assert await process.terminate(1.0) == "ended with exit code 3"
    assert process.died_of_itself
    assert process.failed_step() == step


async def test_nothing_is_started_on_a_machine_that_has_gone(world: World) -> None:
    agent = world.up()
    studio = world.studio
    world.hosts.lost(agent, "its link broke")
    with pytest.raises(EngineError, match="studio is not here any more"):
        await studio.start(SPEC, None)


async def test_processes_that_run_learn_of_a_new_machine(world: World) -> None:
    world.up(STUDIO)
    world.hosts.device_processes = lambda: ["engine.1"]
    world.up(ATTIC)
    assert world.told.messages == [("engine.1", Machines([HEAD.peer_id, STUDIO.peer_id, ATTIC.peer_id]))]


async def test_where_processes_of_other_machines_are_dialled(world: World) -> None:
    world.up(STUDIO, number=1)
    world.up(ATTIC, number=2)
    assert world.hosts.endpoint("studio", 77, "attic") == f"curve://10.0.0.3:77/{STUDIO.peer_id}"
    assert world.hosts.endpoint("", 77, "attic") == f"curve://10.0.0.1:77/{HEAD.peer_id}", "as attic reaches the head"


async def test_a_machine_of_another_version_is_not_used(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.up(protocol=1)
    assert world.hosts.present == []
    assert "studio speaks protocol 1" in caplog.text


async def test_one_that_is_removed_from_the_list_is_put_out(world: World) -> None:
    world.up(STUDIO, number=1)
    world.up(ATTIC, number=2)
    world.members.remove("studio")
    world.hosts.check()
    assert [host.name for host in world.hosts.present] == ["attic"]
    assert world.told.expelled == [STUDIO.peer_id]
    world.up(STUDIO, number=3)
    assert [host.name for host in world.hosts.present] == ["attic"], "and it is not heard again"
