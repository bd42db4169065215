"""One `tell` for every kind of link, and nothing from the dead."""

from __future__ import annotations

import pytest

from histrio.actors.directory import Directory
from histrio.actors.mailbox import Actor, ThreadDispatcher
from histrio.actors.refs import BATCHING, Ref, stage_ref
from histrio.errors import WireError
from histrio.messages import Cancel, Close, HostBeat, HostUp, Machines, Message, ReplicaSize, Start


class Links:
    """Records; refuses to dial `lost.1`."""

    def __init__(self) -> None:
        self.log: list[tuple[str, ...]] = []

    def connect(self, process: str, endpoint: str) -> None:
        if process == "lost.1":
            raise WireError("a name is used once")
        self.log.append(("connect", process, endpoint))

    def disconnect(self, process: str) -> None:
        self.log.append(("disconnect", process))

    def send(self, process: str, actor: str, message: Message) -> None:
        self.log.append(("send", process, actor))

    def admit(self, peer_id: str) -> None:
        self.log.append(("admit", peer_id))


class Listener(Actor[Message]):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[Message] = []

    def receive(self, message: Message) -> None:
        self.heard.append(message)


def make() -> tuple[Directory, Links]:
    links = Links()
    directory = Directory("front", links)
    directory.route({"batching": "engine.1", "stage1": "stage1.1"})
    return directory, links


def hear(directory: Directory, batch: list[tuple[str, Message, str]]) -> list[Message]:
    """What a local actor named `root` gets of a batch from other processes."""
    dispatcher = ThreadDispatcher(lambda _name, error, _message: pytest.fail(str(error)))
    listener = Listener()
    directory.host("root", dispatcher, listener)
    directory.deliver(batch)
    dispatcher._turn(100)
    return listener.heard


def test_a_remote_actor_is_told_through_its_process() -> None:
    directory, links = make()
    directory.tell(stage_ref(1), Close(1))
    assert links.log == [("send", "stage1.1", "stage1")]


def test_an_unknown_actor_is_an_error() -> None:
    directory, _ = make()
    with pytest.raises(WireError, match="batchign"):
        directory.tell(Ref("batchign"), Close(1))


def test_what_is_told_to_a_dead_process_is_dropped() -> None:
    directory, links = make()
    directory.forget("engine.1")
    directory.tell(BATCHING, Cancel(1))
    assert links.log == [("disconnect", "engine.1")]


def test_a_restarted_process_takes_over_its_actors() -> None:
    directory, links = make()
    directory.route({"batching": "engine.2"}, {"engine.2": "ipc://there"})
    directory.tell(BATCHING, Cancel(1))
    assert links.log == [
        ("disconnect", "engine.1"),
        ("connect", "engine.2", "ipc://there"),
        ("send", "engine.2", "batching"),
    ]


def test_a_process_that_was_lost_again_is_not_dialled() -> None:
    directory, links = make()
    directory.route({"batching": "lost.1"}, {"lost.1": "ipc://gone"})
    assert links.log == [("disconnect", "engine.1")]


def test_messages_of_a_dead_incarnation_are_dropped_and_those_of_the_living_arrive() -> None:
    directory, _ = make()
    directory.forget("engine.1")
    heard = hear(directory, [("root", Close(1), "engine.1"), ("root", Close(2), "stage1.1")])
    assert heard == [Close(2)]


def test_a_start_tells_where_every_actor_lives_before_it_arrives() -> None:
    directory, links = make()
    start = Start(2, ReplicaSize(1, 1, 1, 1, 1), {"batching": "engine.2"}, {"engine.2": "ipc://there"})
    assert hear(directory, [("root", start, "stage1.1"), ("root", Close(3), "engine.2")]) == [start, Close(3)]
    assert ("connect", "engine.2", "ipc://there") in links.log


def test_machines_of_the_cluster_are_admitted_by_the_links_at_once() -> None:
    directory, links = make()
    directory.deliver([("stage1", Machines(["a", "b"]), "engine.1"), ("stage1", Machines(["c"]), "stranger.1")])
    assert links.log == [("admit", "a"), ("admit", "b")], "only a known process is believed"


def test_an_agent_introduces_itself_and_no_other() -> None:
    directory, _ = make()
    dispatcher = ThreadDispatcher(lambda *_: None)
    directory.host("hosts", dispatcher, Listener())
    mine, stolen = HostUp("@a.1", 1, "10.0.0.2", "10.0.0.1"), HostUp("@b.1", 1, "10.0.0.2", "10.0.0.1")
    directory.deliver([("hosts", mine, "@a.1")])
    assert list(dispatcher._inbox) == [("hosts", mine)]
    directory.deliver([("hosts", stolen, "@a.1"), ("hosts", HostBeat("@a.1"), "@a.1")])
    assert list(dispatcher._inbox) == [("hosts", mine)]
