"""uvicorn inside the runtime's event loop. Serves many, so nothing here blocks."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import uvicorn

from histrio.errors import TopologyError
from histrio_api.settings import ApiSettings

__all__ = ["bind", "serve"]


async def serve(app: Any, settings: ApiSettings, ready: Callable[[str], None]) -> None:
    """Answer requests until cancelled; open responses then have `shutdown_s` to end.

    Calls `ready` with the address once connections are accepted. Raises `TopologyError` if it cannot listen.
    """
    listener = bind(settings)
    server = _Server(_config(app, settings))
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_run, server, listener, tasks.cancel_scope)
            try:
                await server.is_started.wait()
                ready(_address(listener))
                await anyio.sleep_forever()
            finally:
                server.should_exit = True
    finally:
        listener.close()


def bind(settings: ApiSettings) -> socket.socket:
    """A socket that listens on the settings' address; what is wrong with it is said plainly."""
    where = f"{settings.host}:{settings.port}"
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise TopologyError("api.host", f"{settings.host!r} is not an address of this machine") from error

    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(settings.connection_backlog)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _refusal(error, where) from error
    return listener


def _refusal(error: OSError, where: str) -> TopologyError:
    if error.errno == errno.EADDRINUSE:
        return TopologyError(
            "api.port",
            f"{where} is already in use; stop the program that has it, or choose another port (0: a free one)",
        )
    if error.errno == errno.EACCES:
        return TopologyError("api.port", f"{where} needs privileges that this process lacks; choose a port above 1023")
    if error.errno == errno.EADDRNOTAVAIL:
        return TopologyError("api.host", f"{where} is not an address of this machine; try 127.0.0.1 or 0.0.0.0")
    return TopologyError("api.port", f"cannot listen on {where}: {error.strerror}")


class _Server(uvicorn.Server):
    """Leaves signals to the runtime, and tells when it is up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_started = anyio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The runtime handles signals for all its services."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets=sockets)
        self.is_started.set()


def _config(app: Any, settings: ApiSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=settings.connection_backlog,
        timeout_keep_alive=settings.idle_connection_s,
        timeout_graceful_shutdown=settings.shutdown_s,
    )


async def _run(server: _Server, listener: socket.socket, scope: anyio.CancelScope) -> None:
    """Shielded: uvicorn ends by its flag, so that open responses can end first."""
    with anyio.CancelScope(shield=True):
        await server.serve(sockets=[listener])
    scope.cancel()


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"
