"""Which addresses a link may have: `ipc://PATH` in a private folder, or `tcp://HOST:PORT` on the loopback interface."""

from __future__ import annotations

import ipaddress
import os

from histrio.errors import WireError

__all__ = ["MOST_IPC_PATH_BYTES", "checked_endpoint"]

MOST_IPC_PATH_BYTES = 103
"""`sockaddr_un.sun_path` less its terminator: 107 on Linux, 103 on macOS."""


def checked_endpoint(endpoint: str) -> str:
    """The endpoint, with `localhost` as a number; raises `WireError` if it cannot be used or must not be."""
    match endpoint.partition("://"):
        case ("ipc", _, path):
            _check_ipc_path(path)
        case ("tcp", _, address):
            _check_tcp_address(address, endpoint)
        case _:
            raise WireError(f"endpoint {endpoint!r} is neither ipc://PATH nor tcp://HOST:PORT")

    return endpoint.replace("tcp://localhost:", "tcp://127.0.0.1:")


def _check_ipc_path(path: str) -> None:
    num_bytes = len(os.fsencode(path))
    if not os.path.isabs(path) or "\0" in path:
        raise WireError(f"ipc path {path!r} is not absolute")

    if num_bytes > MOST_IPC_PATH_BYTES:
        raise WireError(
            f"ipc path {path!r} has {num_bytes} bytes, the system takes {MOST_IPC_PATH_BYTES}: "
            "choose a shorter runtime folder, such as TMPDIR=/tmp"
        )


def _check_tcp_address(address: str, endpoint: str) -> None:
    host, _, port = address.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise WireError(f"endpoint {endpoint!r} has no port between 0 and 65535")

    try:
        is_loopback = host == "localhost" or ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise WireError(f"endpoint {endpoint!r} is not on 127.0.0.1: links are not encrypted yet")
