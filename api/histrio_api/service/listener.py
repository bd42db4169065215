"""Listening and serving inside the runtime's event loop. Serves many, so nothing here blocks."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable

import anyio

from histrio.errors import TopologyError
from histrio_api.error_shapes import transport_error
from histrio_api.http.exchange import Application
from histrio_api.http.limits import HttpLimits
from histrio_api.http.server import HttpServer
from histrio_api.shared.settings import ApiSettings, is_loopback

__all__ = ["bind", "serve"]

logger = logging.getLogger(__name__)


async def serve(app: Application, settings: ApiSettings, ready: Callable[[str], None]) -> None:
    """Answer requests until cancelled; open responses then have `shutdown_s` to end.

    Calls `ready` with the address once connections are accepted. Raises `TopologyError` if it cannot listen.
    """
    if not (settings.has_keys or is_loopback(settings.host)):
        logger.warning("any client that reaches %s may use the endpoint: it asks for no key", settings.host)
    listener = bind(settings)
    limits = HttpLimits(
        max_head_bytes=settings.max_header_bytes,
        max_connections=settings.max_connections,
        idle_s=settings.idle_connection_s,
        min_bytes_per_s=settings.min_bytes_per_s,
    )
    server = HttpServer(app, listener, limits, transport_error)
    try:
        ready(_address(listener))
        await server.accept()
    finally:
        listener.close()
        with anyio.CancelScope(shield=True):
            await server.close(settings.shutdown_s)


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


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"
