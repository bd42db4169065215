"""Links between machines: encrypted, and only for keys that were admitted."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import pytest
import zmq

from histrio.errors import WireError
from histrio.messages import Close, Message
from histrio.net.endpoints import curve_endpoint, peer_of, socket_address
from histrio.net.io_thread import IoThread
from histrio.net.keys import HostKey, LinkKeys
from histrio.net.peer import LinkLimits

if TYPE_CHECKING:
    from tests.net.conftest import Until

HEAD, STUDIO, STRANGER = (HostKey(bytes([index]) * 32) for index in range(3))
ANY = "curve://127.0.0.1:0"
LIMITS = LinkLimits(connect_timeout_s=2.0)


class Machine:
    """A process on a machine of its own."""

    def __init__(self, name: str, keys: LinkKeys | None, *, also: Sequence[str] = (), secret: str = "") -> None:
        self.heard: list[tuple[str, Message, str]] = []
        self.lost: list[str] = []
        self.io = IoThread(
            name, None, self.heard.extend, self.lost.append, also=also, keys=keys, secret=secret, limits=LIMITS
        )
        self.io.start()

    @property
    def endpoint(self) -> str:
        return self.io.also[0]


Make = Callable[..., Machine]


@pytest.fixture
def machine() -> Iterator[Make]:
    with ExitStack() as stack:

        def make(name: str, keys: LinkKeys | None, **options: object) -> Machine:
            made = Machine(name, keys, **options)  # type: ignore[arg-type]
            stack.callback(made.io.close, 0.0)
            return made

        yield make


def test_admitted_machines_talk_both_ways(machine: Make, until: Until) -> None:
    head = machine("front", HEAD.links([STUDIO.peer_id]), also=[ANY], secret="s")
    assert peer_of(head.endpoint) == HEAD.peer_id, "the endpoint says whose key answers"
    studio = machine("stage1.1", STUDIO.links([]), secret="s")
    studio.io.connect("front", head.endpoint)
    studio.io.send("front", "root", Close(slot=1))
    head.io.send("stage1.1", "stage1", Close(slot=2))
    until(lambda: head.heard and studio.heard)
    assert head.heard == [("root", Close(slot=1), "stage1.1")]
    assert studio.heard == [("stage1", Close(slot=2), "front")]


def test_what_crosses_the_network_cannot_be_read(until: Until, machine: Make) -> None:
    head = machine("front", HEAD.links([STUDIO.peer_id]), also=[ANY])
    seen = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as server:
        relay = _relay(server, socket_address(head.endpoint), seen)
        studio = machine("stage1.1", STUDIO.links([]))
        port = server.getsockname()[1]
        studio.io.connect("front", curve_endpoint(f"tcp://127.0.0.1:{port}", HEAD.peer_id))
        studio.io.send("front", "a-plainly-written-actor", Close(slot=1))
        until(lambda: head.heard)
        relay()
    assert b"CURVE" in seen, "control: the relay sees what passes"
    assert b"plainly" not in seen


def _relay(server: socket.socket, address: str, seen: bytearray) -> Callable[[], None]:
    """Pass one connection on and note what the dialler says; call the result to end it."""
    import threading

    host, _, port = address.removeprefix("tcp://").rpartition(":")

    def pump(source: socket.socket, target: socket.socket, note: bytearray) -> None:
        while data := source.recv(65536):
            note += data
            target.sendall(data)

    ends: list[socket.socket] = []

    def accept() -> None:
        near, _ = server.accept()
        far = socket.create_connection((host, int(port)))
        ends.extend([near, far])
        for pair in ((near, far, seen), (far, near, bytearray())):
            thread = threading.Thread(target=_quietly, args=(pump, *pair), daemon=True)
            thread.start()
            threads.append(thread)

    threads = [threading.Thread(target=accept, daemon=True)]
    threads[0].start()

    def end() -> None:
        for each in ends:
            each.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(5)
        for each in ends:
            each.close()

    return end


def _has_lost(machine: Machine, process: str) -> bool:
    return machine.lost == [process]


def _quietly(call: Callable[..., None], *arguments: object) -> None:
    try:
        call(*arguments)
    except OSError:  # the test has ended
        pass


def test_unknown_keys_are_refused_in_the_handshake_and_told_once_a_minute(
    machine: Make, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    head = machine("front", HEAD.links([STUDIO.peer_id]), also=[ANY])
    for name in ("stage1.1", "stage2.1"):
        stranger = machine(name, STRANGER.links([]))
        stranger.io.connect("front", head.endpoint)
        stranger.io.send("front", "root", Close(slot=1))
        until(partial(_has_lost, stranger, "front"))
    assert "does not admit this machine's key" in caplog.text
    assert sum("unknown machines" in record.message for record in caplog.records) == 1
    head.io.admit(STRANGER.peer_id)
    again = machine("stage1.2", STRANGER.links([]))
    again.io.connect("front", head.endpoint)
    again.io.send("front", "root", Close(slot=3))
    until(lambda: head.heard)
    assert head.heard == [("root", Close(slot=3), "stage1.2")], "control: once admitted, it is heard"


def test_a_machine_that_answers_with_another_key_is_not_trusted(machine: Make, until: Until) -> None:
    other = machine("front", STRANGER.links([STUDIO.peer_id]), also=[ANY])
    studio = machine("stage1.1", STUDIO.links([]))
    studio.io.connect("front", curve_endpoint(socket_address(other.endpoint), HEAD.peer_id))
    studio.io.send("front", "root", Close(slot=1))
    until(lambda: studio.lost)
    assert not other.heard


def test_plain_speakers_are_not_heard_at_an_encrypted_socket(machine: Make, until: Until) -> None:
    head = machine("front", HEAD.links([STUDIO.peer_id]), also=[ANY])
    plain = machine("stage1.1", None)
    plain.io.connect("front", socket_address(head.endpoint))
    plain.io.send("front", "root", Close(slot=1))
    with socket.create_connection(("127.0.0.1", int(head.endpoint.rpartition("/")[0].rpartition(":")[2]))) as garbage:
        garbage.sendall(b"GET / HTTP/1.1\r\n\r\n" * 1000)
    studio = machine("stage2.1", STUDIO.links([]))
    studio.io.connect("front", head.endpoint)
    studio.io.send("front", "root", Close(slot=2))
    until(lambda: head.heard and plain.lost)
    assert head.heard == [("root", Close(slot=2), "stage2.1")]


def test_local_links_of_the_same_process_stay_plain(machine: Make, until: Until) -> None:
    head = machine("front", HEAD.links([]), also=[ANY, "tcp://127.0.0.1:0"])
    engine = machine("engine.1", None)
    engine.io.connect("front", head.io.also[1])
    engine.io.send("front", "root", Close(slot=1))
    dialled = machine("stage1.1", None, also=["tcp://127.0.0.1:0"])
    head.io.connect("stage1.1", dialled.endpoint)
    head.io.send("stage1.1", "stage1", Close(slot=2))
    until(lambda: head.heard and dialled.heard)
    assert dialled.heard == [("stage1", Close(slot=2), "front")]


def test_the_name_of_an_agent_needs_its_key(machine: Make, until: Until) -> None:
    head = machine("front", HEAD.links([STUDIO.peer_id, STRANGER.peer_id]), also=[ANY], secret="of the run")
    thief = machine(f"@{STUDIO.peer_id}.1", STRANGER.links([]))
    thief.io.connect("front", head.endpoint)
    thief.io.send("front", "hosts", Close(slot=1))
    nameless = machine("stage1.1", STRANGER.links([]))
    nameless.io.connect("front", head.endpoint)
    nameless.io.send("front", "hosts", Close(slot=2))
    agent = machine(f"@{STUDIO.peer_id}.2", STUDIO.links([]))
    agent.io.connect("front", head.endpoint)
    agent.io.send("front", "hosts", Close(slot=3))
    until(lambda: head.heard)
    assert head.heard == [("hosts", Close(slot=3), agent.io.process)]
    head.io.send(agent.io.process, "agent", Close(slot=4))
    until(lambda: agent.heard)


def test_without_keys_nothing_is_encrypted_and_that_is_said(machine: Make) -> None:
    with pytest.raises(WireError, match="no keys"):
        machine("front", None, also=[ANY])
    with pytest.raises(WireError, match="no keys"):
        machine("front", None).io.admit(STUDIO.peer_id)


def test_the_same_port_is_not_taken_twice(machine: Make) -> None:
    head = machine("front", HEAD.links([]), also=[ANY])
    with pytest.raises(WireError, match="cannot listen"):
        machine("other", STUDIO.links([]), also=[head.endpoint])
    assert zmq.has("curve")
