"""The one ROUTER socket of a process and the monitor that tells of its connections. For one thread only.

Every pair of processes shares one connection: the later started dials the earlier under that one's name, so both know
each other by name from the first message on. Message and process names are the only addresses.
"""

from __future__ import annotations

import errno
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NamedTuple

import zmq

from histrio.errors import WireError
from histrio.net.endpoints import curve_endpoint, peer_of, socket_address
from histrio.net.gate import Gate
from histrio.net.keys import LinkKeys
from histrio.net.peer import LinkLimits
from histrio.net.wire import COPY_BELOW_BYTES, Frame

__all__ = ["HOST_MARK", "LinkChange", "Ready", "Router", "Sending"]

_REFUSALS = zmq.Event.HANDSHAKE_FAILED_AUTH | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
_EVENTS = zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.DISCONNECTED | _REFUSALS
HOST_MARK = "@"
"""What the name of a machine's agent begins with: its peer id follows, and its key vouches for it."""
_HOST_MARK = HOST_MARK.encode()
_MOST_NAME_BYTES = 255
_NETWORK_BEAT_MS = 500
"""Of links to other machines, whose end the system may never tell."""

# Plain integers: combining zmq's enums takes as long as sending a frame.
_NOBLOCK = int(zmq.NOBLOCK)
_NOBLOCK_SNDMORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_RCVMORE = int(zmq.RCVMORE)


class Sending(Enum):
    """What became of a message given to the socket."""

    DONE = auto()
    FULL = auto()
    """The high-water mark of this peer is reached."""
    UNKNOWN = auto()
    """No such peer is connected, or no more."""


class Ready(NamedTuple):
    """What a poll found."""

    has_messages: bool
    has_changes: bool
    is_woken: bool


@dataclass(frozen=True, slots=True)
class LinkChange:
    """A connection came up or went down; `endpoint` is the dialled one, or this process's own for an accepted one."""

    endpoint: str
    """As ZeroMQ calls it."""
    is_up: bool
    is_refused: bool = False
    """The other side does not admit this machine's key, or has another one than it was dialled by."""


class Router:
    """Made in any thread, used in one. `close` frees everything.

    On the wire a process that dials is called by its name and the secret of the run, so that no other program can take
    its name. The one that listens tells no secret: the dialler knows whom it dials. The agent of another machine knows
    no secret of a run; its name has its peer id, and the key of its connection proves it.
    """

    def __init__(
        self,
        process: str,
        limits: LinkLimits,
        secret: str = "",
        keys: LinkKeys | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._suffix = f"#{secret}".encode() if secret else b""
        self._public_name = process.encode()
        self._name = self._address(process)
        if not process or len(self._name) > _MOST_NAME_BYTES or process.startswith("\0"):
            raise WireError(f"{process!r} cannot name a process: it takes 1 to {_MOST_NAME_BYTES} bytes")

        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        for option, value in _options(limits).items():
            self._socket.setsockopt(option, value)
        self._monitor = self._socket.get_monitor_socket(_EVENTS)
        self.gate = None if keys is None else Gate(self._context, keys, clock)
        """Which machines are admitted; None in a process without encrypted links."""

    def bind(self, endpoint: str) -> str:
        """Accept connections; returns the endpoint with the port chosen. Raises `WireError` if it is taken."""
        address = socket_address(endpoint)
        is_encrypted = address != endpoint
        self._protect(is_encrypted=is_encrypted)
        self._socket.setsockopt(zmq.IDENTITY, self._public_name)
        interval_ms = self._limits.heartbeat_interval_ms
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, (interval_ms or _NETWORK_BEAT_MS) if is_encrypted else interval_ms)
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            raise WireError(f"cannot listen on {endpoint}: {zmq.strerror(error.errno or 0)}") from error

        bound: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
        return curve_endpoint(bound, self.gate.peer_id) if is_encrypted and self.gate is not None else bound

    def dial(self, process: str, endpoint: str, *, has_heartbeats: bool = True) -> bool:
        """Connect to the process at this endpoint, again until it answers; False if it has dialled this one already."""
        # libzmq aborts the whole process when a name that is already connected is given to a second connection. Asking
        # for events makes the socket take note of connections that came meanwhile.
        self._socket.get(zmq.EVENTS)
        if self.send(process, [b""]) is not Sending.UNKNOWN:
            return False

        # A connection takes the options that are set when it is made.
        address = socket_address(endpoint)
        self._protect(dials=peer_of(endpoint), is_encrypted=address != endpoint)
        self._socket.setsockopt(zmq.IDENTITY, self._name)
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, self._limits.heartbeat_interval_ms if has_heartbeats else 0)
        self._socket.setsockopt(zmq.CONNECT_ROUTING_ID, self._address(process))
        self._socket.connect(address)
        return True

    def hang_up(self, endpoint: str) -> None:
        """Close a dialled connection and stop trying."""
        self._socket.disconnect(socket_address(endpoint))

    def send(self, process: str, frames: list[Frame]) -> Sending:
        """Hand one message to the socket, all of it or nothing, without waiting."""
        try:
            self._socket.send(self._address(process), _NOBLOCK_SNDMORE)
        except zmq.Again:
            return Sending.FULL
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise

            return Sending.UNKNOWN

        last = len(frames) - 1
        for i, frame in enumerate(frames):
            flags = _NOBLOCK if i == last else _NOBLOCK_SNDMORE
            self._socket.send(frame, flags, copy=len(frame) < COPY_BELOW_BYTES)
        return Sending.DONE

    def receive(self) -> tuple[str, list[Frame]] | None:
        """The next message with its sender's name, or None. Large frames are views of the socket's own memory.

        The name is empty if the sender does not know the secret, and is no agent with the key of its name either.
        """
        try:
            sender = self._socket.recv(_NOBLOCK)
        except zmq.Again:
            return None

        if sender.startswith(_HOST_MARK):
            return self._receive_of_host(sender)
        frames: list[Frame] = [self._socket.recv()]
        while self._socket.getsockopt(_RCVMORE):
            frame = self._socket.recv(copy=False)
            # A short frame lies anywhere in the receive buffer; its copy is aligned for every dtype.
            frames.append(frame.bytes if len(frame) < COPY_BELOW_BYTES else frame.buffer)
        is_ours = sender.endswith(self._suffix)
        name = sender[: len(sender) - len(self._suffix)].decode(errors="backslashreplace") if is_ours else ""
        return name, frames

    def _receive_of_host(self, sender: bytes) -> tuple[str, list[Frame]]:
        """Its messages are small, and each is checked against the key of its connection."""
        received = [self._socket.recv(copy=False)]
        while self._socket.getsockopt(_RCVMORE):
            received.append(self._socket.recv(copy=False))
        try:
            peer_id = received[0].get("User-Id")
        except zmq.ZMQError:  # of a connection that is not encrypted
            peer_id = ""
        name = sender.decode(errors="backslashreplace")
        is_its_own = bool(peer_id) and name.removeprefix(HOST_MARK).partition(".")[0] == peer_id
        return name if is_its_own else "", [frame.bytes for frame in received]

    def changes(self) -> list[LinkChange]:
        """Connections that came up or went down since the last call."""
        found = []
        while int(self._monitor.get(zmq.EVENTS)) & zmq.POLLIN:
            head, endpoint = self._monitor.recv_multipart()
            event, _ = struct.unpack("=hi", head)
            is_up = event == zmq.Event.HANDSHAKE_SUCCEEDED
            found.append(LinkChange(endpoint.decode(), is_up, is_refused=bool(event & _REFUSALS)))
        return found

    def poll(self, wake_fd: int, timeout_ms: int) -> Ready:
        """Wait until there is something to do (-1: for ever)."""
        # Measured: zmq_poll with an eventfd wakes as fast as an inproc PAIR or epoll on the sockets' descriptors.
        watched: list[Any] = [(self._socket, zmq.POLLIN), (self._monitor, zmq.POLLIN), (wake_fd, zmq.POLLIN)]
        if self.gate is not None:
            watched.append((self.gate.socket, zmq.POLLIN))
        ready = [source for source, _ in zmq.zmq_poll(watched, timeout_ms)]
        if self.gate is not None and self.gate.socket in ready:
            self.gate.answer()
        return Ready(self._socket in ready, self._monitor in ready, wake_fd in ready)

    def close(self, linger_ms: int) -> None:
        """Send what the socket still holds, for so long at most, and free everything."""
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=linger_ms)
        if self.gate is not None:
            self.gate.close()
        self._context.term()

    def _address(self, process: str) -> bytes:
        """What a process is called on the wire."""
        return process.encode() if process.startswith(HOST_MARK) else process.encode() + self._suffix

    def _protect(self, *, dials: str = "", is_encrypted: bool) -> None:
        if self.gate is not None:
            self.gate.protect(self._socket, dials=dials, is_encrypted=is_encrypted)
        elif is_encrypted:
            raise WireError("this process has no keys for encrypted links")


def _options(limits: LinkLimits) -> dict[int, int]:
    return {
        zmq.ROUTER_MANDATORY: 1,
        zmq.SNDHWM: limits.high_water_mark,
        zmq.RCVHWM: limits.high_water_mark,
        zmq.MAXMSGSIZE: limits.max_frame_bytes,
        zmq.HEARTBEAT_IVL: limits.heartbeat_interval_ms,
        # No HEARTBEAT_TTL: by it a process that was stopped itself would lose its peers when it goes on.
        zmq.HEARTBEAT_TIMEOUT: limits.heartbeat_timeout_ms,
        zmq.RECONNECT_IVL: 20,
        zmq.RECONNECT_IVL_MAX: 500,
        # What waits for a dead peer would keep its name reachable for the linger time; `close` gives its own.
        zmq.LINGER: 0,
        zmq.IPV6: 0,
    }
