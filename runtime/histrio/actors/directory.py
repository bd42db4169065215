"""How one actor reaches another: by name, through one `tell`, wherever the other lives."""

from __future__ import annotations

import logging
from typing import Any, Protocol

from histrio.actors.mailbox import Actor, Dispatcher
from histrio.actors.refs import M, Ref
from histrio.errors import WireError
from histrio.messages import HostUp, Machines, Message, Start

__all__ = ["Directory", "RemoteLinks"]

log = logging.getLogger(__name__)

_NOWHERE = ""


class RemoteLinks(Protocol):
    """What the directory needs of the I/O thread: the `zmq` kind of link."""

    def connect(self, process: str, endpoint: str) -> None:
        """Dial a peer."""

    def disconnect(self, process: str) -> None:
        """Forget a peer."""

    def send(self, process: str, actor: str, message: Message) -> None:
        """Queue a message for an actor of that process."""

    def admit(self, peer_id: str) -> None:
        """Let processes of this machine dial in."""


class Directory:
    """The actors of this process, and the processes of all others.

    A local `tell` is a `call` link when both actors share a dispatcher, a `queue` link when they do not; a remote one
    is a `zmq` link. The topology decides, never the code that tells.
    """

    def __init__(self, process: str, links: RemoteLinks | None = None) -> None:
        self.process = process
        self._links = links
        self._local: dict[str, Dispatcher] = {}
        self._remote: dict[str, str] = {}
        """Replaced as a whole, never changed: the I/O thread reads it."""

    def use(self, links: RemoteLinks) -> None:
        """Tell remote actors through these links."""
        self._links = links

    def host(self, name: str, dispatcher: Dispatcher, actor: Actor[Any]) -> None:
        """The actor lives in this process."""
        dispatcher.host(name, actor)
        self._local[name] = dispatcher

    def route(self, peers: dict[str, str], endpoints: dict[str, str] | None = None) -> None:
        """Learn where actors live now, and dial the processes that this one has to dial."""
        remote = {actor: process for actor, process in peers.items() if process != self.process}
        replaced = {old for actor, old in self._remote.items() if old != _NOWHERE and remote.get(actor, old) != old}
        self._remote = {**self._remote, **remote}
        if self._links is None:
            return
        for process in replaced:
            self._links.disconnect(process)
        for process, endpoint in (endpoints or {}).items():
            try:
                self._links.connect(process, endpoint)
            except WireError as error:  # lost again already; root is about to hear of it
                log.info("%s does not dial %s: %s", self.process, process, error)

    def forget(self, process: str) -> None:
        """The process has ended: messages from it and to its actors are dropped."""
        self._remote = {name: _NOWHERE if host == process else host for name, host in self._remote.items()}
        if self._links is not None:
            self._links.disconnect(process)

    def tell(self, name: Ref[M], message: M, /) -> None:
        """Append the message to the actor's mailbox. Raises `WireError` if the actor is unknown."""
        dispatcher = self._local.get(name)
        if dispatcher is not None:
            dispatcher.post(name, message)
            return

        process = self._remote.get(name)
        if process == _NOWHERE:
            return  # its process has ended; admission sends what is unfinished to its successor
        if process is None or self._links is None:
            raise WireError(f"no actor is called {name!r} in process {self.process!r} or among its peers")
        self._links.send(process, name, message)

    def deliver(self, batch: list[tuple[str, Message, str]]) -> None:
        """Messages from other processes, on the I/O thread: pass them to their mailboxes.

        What a process sends that no present peer lives in (a dead incarnation) is dropped. The agent of another machine
        introduces itself; its link has shown that it is the one it says.
        """
        known = set(self._remote.values())
        for name, message, sender in batch:
            if sender not in known and not (isinstance(message, HostUp) and message.agent == sender):
                continue
            if isinstance(message, Start):
                self.route(message.peers, message.endpoints)
                known = set(self._remote.values())
            elif isinstance(message, Machines):
                self._admit(message)
            dispatcher = self._local.get(name)
            if dispatcher is not None:
                dispatcher.post(name, message)

    def _admit(self, machines: Machines) -> None:
        if self._links is not None:
            for peer_id in machines.peer_ids:
                self._links.admit(peer_id)
