"""`histrio join`: this machine runs what the head of a cluster gives it, until it is stopped."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

import anyio

from histrio.errors import WireError
from histrio.hosts.door import Answer
from histrio.hosts.folder import HostFolder, host_folder
from histrio.hosts.joining import Joining, Refused, split_address
from histrio.processes.agent import Head, serve
from histrio.processes.logs import set_up_logs
from histrio.processes.services import first_histrio_error

__all__ = ["COMMAND", "JoinCommand"]

log = logging.getLogger(__name__)

_FIRST_DELAY_S, _MOST_DELAY_S = 0.5, 5.0


class JoinCommand:
    """Ask at the door, then serve; again when the head was lost."""

    help = "have this machine run layers for the head of a cluster"

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The head's address, and how to be admitted."""
        parser.add_argument("address", nargs="?", help="the head, as it says itself: ADDRESS or ADDRESS:PORT")
        parser.add_argument("-s", "--scheduler-addr", dest="scheduler", metavar="ADDRESS", help="the same")
        parser.add_argument("--token", default="", help="admits this machine at once; without it a person has to")
        parser.add_argument("--name", default=_own_name(), help="what this machine is called (default: %(default)s)")
        parser.add_argument("--folder", type=Path, help="where its key is (default: the user's configuration folder)")
        parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])

    def run(self, options: Namespace) -> int:
        """Until Ctrl-C."""
        address = options.address or options.scheduler
        if not address:
            raise WireError("name the head: histrio join ADDRESS, as the head's log says it")
        host, port = split_address(address)
        set_up_logs("agent", log_format="text", level=options.log_level)
        folder = host_folder(options.folder)
        joining = Joining(folder, host, port, name=options.name, token=options.token, say=log.info)
        try:
            anyio.run(_run, joining, folder, host, backend_options={"use_uvloop": sys.platform != "win32"})
        except BaseExceptionGroup as group:
            raise first_histrio_error(group) or group from None
        return 0


COMMAND = JoinCommand()


async def _run(joining: Joining, folder: HostFolder, host: str) -> None:
    """Serve until a signal comes. Raises `WireError` if the head refuses this machine, or is not there at first."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_at_signal, tasks.cancel_scope)
        answer = await joining.admitted()
        while True:
            head = Head(answer.name, answer.peer_id, host, answer.port)
            log.info("this machine is %s in the cluster of %s", answer.member_name, answer.name)
            reason = await serve(head, folder.key())
            log.warning("%s; asking again until it answers", reason)
            answer = await _admitted_again(joining)


async def _admitted_again(joining: Joining) -> Answer:
    """The head may be away for a while: it is asked for ever. What it refuses is raised."""
    delay_s = _FIRST_DELAY_S
    while True:
        await anyio.sleep(delay_s)
        try:
            return await joining.admitted()
        except Refused:
            raise
        except WireError as error:
            log.debug("%s", error)
        delay_s = min(2 * delay_s, _MOST_DELAY_S)


async def _stop_at_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            log.info("leaving the cluster")
            scope.cancel()
            return


def _own_name() -> str:
    return socket.gethostname().partition(".")[0] or "machine"
