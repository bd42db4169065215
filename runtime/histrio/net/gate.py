"""Which machines' keys the encrypted sockets of a process admit: its answers to ZeroMQ's authentication (RFC 27/ZAP).

A key that is not admitted is refused in the handshake, before any message of its owner is read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import zmq
from zmq.utils import z85

from histrio.net.keys import LinkKeys, curve_key, public_of

__all__ = ["Gate"]

log = logging.getLogger(__name__)

_DOMAIN = b"hosts"
"""Sockets without a domain are not asked about."""
_ADDRESS = "inproc://zeromq.zap.01"
_SAY_EVERY_S = 60.0


class Gate:
    """One per process with encrypted links. Made in any thread, used in that of its sockets."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: LinkKeys, clock: Callable[[], float]) -> None:
        self._keys = keys
        self._clock = clock
        self._admitted = {curve_key(peer_id): peer_id for peer_id in keys.admitted}
        self._num_refused = 0
        self._say_at = 0.0
        self.socket = context.socket(zmq.REP)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(_ADDRESS)

    def admit(self, peer_id: str) -> None:
        """Let this machine's processes in from now on."""
        self._admitted[curve_key(peer_id)] = peer_id

    def expel(self, peer_id: str) -> None:
        """Refuse its next connection; one that stands stays."""
        self._admitted.pop(curve_key(peer_id), None)

    def answer(self) -> None:
        """Answer all that was asked."""
        while True:
            try:
                question = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self.socket.send_multipart(self._reply(question), zmq.NOBLOCK)

    def protect(self, socket: zmq.Socket[bytes], *, dials: str = "", is_encrypted: bool = True) -> None:
        """Set what the next `bind` or `connect` of the socket takes: encrypted to the machine that it `dials`, or as
        the side that is dialled; or not encrypted."""
        socket.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN)
        if not is_encrypted:
            socket.setsockopt(zmq.PLAIN_SERVER, 0)  # which takes CURVE back
            return

        secret = self._keys.secret.encode()
        socket.setsockopt(zmq.CURVE_SERVER, 0 if dials else 1)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, public_of(secret))
        socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
        if dials:
            socket.setsockopt(zmq.CURVE_SERVERKEY, curve_key(dials))

    @property
    def peer_id(self) -> str:
        """Of this machine."""
        return self._keys.peer_id

    def close(self) -> None:
        """Before the context ends."""
        self.socket.close(0)

    def _reply(self, question: list[bytes]) -> list[bytes]:
        version, request, _domain, address, _name, mechanism, *credentials = question
        if mechanism == b"NULL":  # of a socket that is not encrypted, which only this machine can reach
            return [version, request, b"200", b"OK", b"", b""]

        key = z85.encode(credentials[0]) if mechanism == b"CURVE" and credentials else b""
        peer_id = self._admitted.get(key)
        if peer_id is None:
            self._refused(address.decode(errors="replace"))
            return [version, request, b"400", b"not admitted", b"", b""]
        return [version, request, b"200", b"OK", peer_id.encode(), b""]

    def _refused(self, address: str) -> None:
        """Say it once a minute at most: strangers can dial as often as they like."""
        self._num_refused += 1
        now = self._clock()
        if now >= self._say_at:
            log.warning("refused %d connections of unknown machines, the last from %s", self._num_refused, address)
            self._num_refused, self._say_at = 0, now + _SAY_EVERY_S
