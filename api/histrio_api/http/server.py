"""Accepting connections, within a number that leaves the process descriptors to go on with."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
from collections.abc import Callable

from histrio.system.heap import release_free_memory
from histrio_api.http.answer import ErrorBody, error_answer, openai_error_body
from histrio_api.http.connection import Connection
from histrio_api.http.exchange import Application, Exchange
from histrio_api.http.limits import HttpLimits

__all__ = ["HttpServer", "num_allowed_connections"]

logger = logging.getLogger(__name__)

RESERVED_DESCRIPTORS = 64
"""Of those the process may have, kept for everything but connections: links, logs, processes to be started."""
RELEASE_AFTER_S = 5.0
"""How long after a large request its memory is given back."""
CANCEL_S = 1.0
"""What cancelled requests have to say that they are."""
MAX_UNSENT = getattr(socket, "TCP_NOTSENT_LOWAT", None)
"""Not every system has it."""
MAX_UNSENT_BYTES = 131_072
"""Of an answer, in the system's buffers: megabytes there would hide how slowly a client takes it, and cost as much."""
_RETRY_S = 0.1
_RETRY_AFTER_S = 1


class HttpServer:
    """Serves an application on a socket that listens already."""

    def __init__(
        self,
        application: Application,
        listener: socket.socket,
        limits: HttpLimits,
        error_body: ErrorBody = openai_error_body,
        release: Callable[[], None] = release_free_memory,
    ) -> None:
        """`error_body` writes the errors that the application knows nothing of."""
        self.application = application
        self.limits = limits
        self.error_body = error_body
        self._listener = listener
        self._max_connections = num_allowed_connections(limits.max_connections)
        self._connections: set[Connection] = set()
        self._waiting: dict[Connection, None] = {}
        """Connections without a request, the one that has waited longest first."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._release = release
        self._release_timer: asyncio.TimerHandle | None = None
        self._is_short = False
        self._is_closing = False

    @property
    def num_connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    async def accept(self) -> None:
        """Accept connections until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                await self._wait_for_descriptors(error)
                continue
            self._is_short = False
            client.setblocking(False)
            if MAX_UNSENT is not None:
                client.setsockopt(socket.IPPROTO_TCP, MAX_UNSENT, MAX_UNSENT_BYTES)
            if len(self._connections) >= self._max_connections and not self._make_room():
                self._turn_away(client)
                continue
            try:
                await loop.connect_accepted_socket(lambda: Connection(self), client)
            except OSError:  # it has left already
                client.close()

    async def close(self, grace_s: float) -> None:
        """End all connections: those that wait at once, requests within `grace_s`, then whatever they do."""
        self._is_closing = True
        for connection in tuple(self._connections):
            connection.shut_down()
        if not await self._all_gone(grace_s):
            for task in self._tasks:
                task.cancel()
            if not await self._all_gone(CANCEL_S):
                for connection in tuple(self._connections):
                    connection.abort()
                await self._all_gone(CANCEL_S)
        if self._release_timer is not None:
            self._release_timer.cancel()

    def opened(self, connection: Connection) -> None:
        """A connection's: there is one more, which may have been on its way when `close` was called."""
        self._connections.add(connection)
        if self._is_closing:
            connection.shut_down()

    def closed(self, connection: Connection) -> None:
        """A connection's: it is gone."""
        self._connections.discard(connection)
        self._waiting.pop(connection, None)

    def is_waiting(self, connection: Connection, *, waits: bool) -> None:
        """Note whether a connection has no request: such a connection is closed where there are too many."""
        self._waiting.pop(connection, None)
        if waits:
            self._waiting[connection] = None

    def start(self, exchange: Exchange) -> None:
        """A connection's: let the application answer."""
        task = asyncio.get_running_loop().create_task(exchange.run(self.application))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def had_large_request(self) -> None:
        """A connection's: give memory back once it is calm."""
        loop = asyncio.get_running_loop()
        if self._release_timer is not None:
            self._release_timer.cancel()
        self._release_timer = loop.call_later(RELEASE_AFTER_S, loop.run_in_executor, None, self._release)

    def _make_room(self) -> bool:
        """Close the connection that has been without a request for longest, if there is one."""
        longest = next(iter(self._waiting), None)
        if longest is None:
            return False
        del self._waiting[longest]
        longest.abort()
        return True

    def _turn_away(self, client: socket.socket) -> None:
        """Say that there is no room, as far as that goes without waiting."""
        text = "too many connections are open; try again shortly"
        body = self.error_body(503, text, "too_many_connections", "")
        answer = error_answer(503, body, [(b"retry-after", str(_RETRY_AFTER_S).encode())])
        try:
            client.recv(65_536)  # unread bytes would turn the answer into a reset
        except OSError:
            pass
        try:
            client.send(answer)
            client.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        client.close()

    async def _wait_for_descriptors(self, error: OSError) -> None:
        """Accepting failed; a client that left is none of our concern, a lack of descriptors may pass."""
        if error.errno == errno.ECONNABORTED:
            return
        if not self._is_short:
            self._is_short = True
            logger.warning("no further connection can be accepted for now: %s", error.strerror)
        await asyncio.sleep(_RETRY_S)

    async def _all_gone(self, within_s: float) -> bool:
        loop = asyncio.get_running_loop()
        end_s = loop.time() + within_s
        while self._connections or self._tasks:
            if loop.time() >= end_s:
                return False
            await asyncio.sleep(0.02)
        return True


def num_allowed_connections(wanted: int) -> int:
    """As many as wanted, unless the process may not have so many descriptors; then it is said."""
    if sys.platform == "win32":
        return wanted
    import resource

    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or wanted <= most - RESERVED_DESCRIPTORS:
        return wanted

    allowed = max(most - RESERVED_DESCRIPTORS, most // 4, 1)
    logger.warning(
        "api.max-connections is %d, but the system's limit of open files (ulimit -n) is %d: at most %d connections "
        "are accepted at the same time",
        wanted,
        most,
        allowed,
    )
    return allowed
