"""Which addresses a link may have: `ipc://PATH` in a private folder, `curve://HOST:PORT/PEER_ID` on another machine.

A `curve` link is TCP, encrypted and authenticated with the keys of both machines; the peer id says whose key has to
answer. Plain `tcp://HOST:PORT` stays on the loopback interface.
"""

from __future__ import annotations

import ipaddress
import os
import socket

from histrio.errors import WireError
from histrio.net.keys import PEER_ID

__all__ = [
    "MOST_IPC_PATH_BYTES",
    "checked_endpoint",
    "curve_endpoint",
    "own_address",
    "peer_of",
    "port_of",
    "socket_address",
]

MOST_IPC_PATH_BYTES = 103
"""`sockaddr_un.sun_path` less its terminator: 107 on Linux, 103 on macOS."""
_CURVE = "curve://"


def checked_endpoint(endpoint: str) -> str:
    """The endpoint, with `localhost` as a number; raises `WireError` if it cannot be used or must not be."""
    match endpoint.partition("://"):
        case ("ipc", _, path):
            _check_ipc_path(path)
        case ("tcp", _, address):
            _check_tcp_address(address, endpoint)
        case ("curve", _, _rest):
            _check_curve(endpoint)
        case _:
            raise WireError(f"endpoint {endpoint!r} is none of ipc://PATH, tcp://HOST:PORT and curve://HOST:PORT")

    return endpoint.replace("tcp://localhost:", "tcp://127.0.0.1:")


def curve_endpoint(address: str, peer_id: str) -> str:
    """The endpoint of a machine's encrypted socket at `tcp://HOST:PORT`."""
    return f"{_CURVE}{address.removeprefix('tcp://')}/{peer_id}"


def own_address(other: str) -> str:
    """This machine's IPv4 address on the way to another; nothing is sent. Raises `WireError` if there is no way."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((other, 9))
        except OSError as error:
            raise WireError(f"there is no way to {other}: {error.strerror}") from None
        address: str = probe.getsockname()[0]
    return address


def peer_of(endpoint: str) -> str:
    """The peer id in a `curve` endpoint; empty where it has none, as one to listen on, and for other kinds."""
    return endpoint.removeprefix(_CURVE).partition("/")[2] if endpoint.startswith(_CURVE) else ""


def port_of(endpoint: str) -> int:
    """The port of a `curve` or `tcp` endpoint."""
    return int(socket_address(endpoint).rpartition(":")[2])


def socket_address(endpoint: str) -> str:
    """What ZeroMQ calls it."""
    if not endpoint.startswith(_CURVE):
        return endpoint
    return "tcp://" + endpoint.removeprefix(_CURVE).partition("/")[0]


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
    host = _host_of(address, endpoint)
    try:
        is_loopback = host == "localhost" or ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise WireError(f"endpoint {endpoint!r} is not on 127.0.0.1, and plain tcp:// is not encrypted: use curve://")


def _check_curve(endpoint: str) -> None:
    host = _host_of(socket_address(endpoint).removeprefix("tcp://"), endpoint)
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        raise WireError(f"endpoint {endpoint!r} has no IPv4 address, such as 192.168.1.20") from None

    peer_id = peer_of(endpoint)
    if peer_id and not PEER_ID.fullmatch(peer_id):
        raise WireError(f"endpoint {endpoint!r} does not end with a peer id of 64 digits of 0-9 and a-f")


def _host_of(address: str, endpoint: str) -> str:
    host, _, port = address.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise WireError(f"endpoint {endpoint!r} has no port between 0 and 65535")
    return host
