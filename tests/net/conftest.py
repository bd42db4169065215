"""Links between I/O threads of this process, and to real child processes, all stopped at the end of the test."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeAlias

import pytest

from histrio.messages import Message
from histrio.net.io_thread import IoThread
from histrio.net.peer import DEFAULT_LIMITS, LinkLimits
from histrio.testing.wait import eventually

PEER_PROGRAM = Path(__file__).with_name("peer_program.py")


class Node:
    """An I/O thread and what came to it."""

    def __init__(self, process: str, endpoint: str | None, limits: LinkLimits) -> None:
        self.batches: list[list[tuple[str, Message, str]]] = []
        self.lost: list[str] = []
        self.io = IoThread(process, endpoint, self.batches.append, self.lost.append, limits=limits)

    @property
    def endpoint(self) -> str:
        """Where others dial it."""
        assert self.io.endpoint is not None, "it only dials"
        return self.io.endpoint

    @property
    def heard(self) -> list[tuple[str, Message, str]]:
        """Everything that was delivered, in order."""
        return [addressed for batch in self.batches for addressed in batch]

    def messages(self, sender: str) -> list[Message]:
        """What came from one process."""
        return [message for _, message, process in self.heard if process == sender]


class MakeNode(Protocol):
    """`node(name)` listens on an ipc socket, `node(name, dials=other)` is connected to another node."""

    def __call__(self, process: str, *, dials: Node | None = None, limits: LinkLimits = DEFAULT_LIMITS) -> Node: ...


StartPeer: TypeAlias = Callable[[str, str, Node], subprocess.Popen[bytes]]
"""`child("echo", name, node)` starts the peer program as a process of its own, which dials the node."""
Until: TypeAlias = Callable[[Callable[[], object]], None]


@pytest.fixture
def until() -> Until:
    return eventually


@pytest.fixture
def sockets() -> Iterator[Path]:
    # Not tmp_path: that is too long for a socket on some systems.
    with tempfile.TemporaryDirectory(prefix="hnet") as folder:
        yield Path(folder)


@pytest.fixture
def node(sockets: Path) -> Iterator[MakeNode]:
    nodes: list[Node] = []

    def make(process: str, *, dials: Node | None = None, limits: LinkLimits = DEFAULT_LIMITS) -> Node:
        made = Node(process, None if dials else f"ipc://{sockets}/{process}", limits)
        made.io.start()
        nodes.append(made)
        if dials:
            made.io.connect(dials.io.process, dials.endpoint)
        return made

    yield make
    for made in reversed(nodes):
        made.io.close(linger_s=0.0)


@pytest.fixture
def child() -> Iterator[StartPeer]:
    children: list[subprocess.Popen[bytes]] = []

    def start(role: str, process: str, peer: Node) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(PEER_PROGRAM), role, process, peer.io.process, str(peer.io.endpoint)]
        started = subprocess.Popen(command, stdin=subprocess.PIPE)
        children.append(started)
        return started

    yield start
    for started in children:
        started.kill()
        started.wait()
        assert started.stdin
        started.stdin.close()
