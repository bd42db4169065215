"""This machine as the head of a cluster: the door where others join, and the list of those that are here."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import anyio

from histrio.actors.refs import HOSTS
from histrio.config.topology import ClusterTable
from histrio.errors import WireError
from histrio.hosts.door import Door
from histrio.hosts.folder import host_folder
from histrio.hosts.members import Members
from histrio.net.endpoints import own_address, port_of
from histrio.net.io_thread import IoThread
from histrio.processes.front import Front
from histrio.processes.remote_host import HostsActor

__all__ = ["ClusterHead"]

log = logging.getLogger(__name__)

_CHECK_S = 0.5
_TOKEN_S = 3600.0
"""How long the token is valid that a start prints."""


class ClusterHead:
    """Made before the links of the front, which take its keys and its endpoint. Raises `WireError` for a folder that
    cannot be used."""

    def __init__(self, table: ClusterTable) -> None:
        self._table = table
        folder = host_folder(None if table.folder is None else Path(table.folder).expanduser())
        self.members = Members(folder)
        self.name = table.name or socket.gethostname()
        key = folder.key()
        self.keys = key.links([member.peer_id for member in self.members.all()])
        self.links_endpoint = f"curve://{table.listen}:{table.links_port}"

    def hosts(self, front: Front, links: IoThread) -> HostsActor:
        """The actor that knows the machines, hosted on the front's loop."""
        actor = HostsActor(front.directory, links, self.members, self.keys, port_of(links.also[0]))
        front.directory.host(HOSTS, front.dispatcher, actor)
        return actor

    async def run(self, hosts: HostsActor, links: IoThread) -> None:
        """Keep the door open and look after the machines until cancelled."""
        door = Door(
            self.members,
            peer_id=self.keys.peer_id,
            name=self.name,
            links_port=port_of(links.also[0]),
            is_open=self._table.open_lan,
            on_admitted=hosts.read_members,
        )
        if self._table.open_lan:
            log.warning("[cluster] says open-lan: every machine that reaches this one is admitted and gets the model")
        async with anyio.create_task_group() as tasks:
            port = await tasks.start(door.run, self._table.listen, self._table.port)
            token = await anyio.to_thread.run_sync(lambda: self.members.make_token(valid_s=_TOKEN_S, is_reusable=True))
            address = _reached_at(self._table.listen)
            log.info("other machines join with: histrio join %s:%d --token %s", address, port, token)
            while True:
                await anyio.sleep(_CHECK_S)
                hosts.check()


def _reached_at(listen: str) -> str:
    """Where other machines reach this one; the address on the way out, where it listens on all."""
    if listen != "0.0.0.0":
        return listen
    try:
        return own_address("192.0.2.1")  # of documentation: any way out will do
    except WireError:
        return "127.0.0.1"
