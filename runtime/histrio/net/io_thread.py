"""One I/O thread per process owns all sockets; actors in other threads send through it and hear from it in batches.

A process name is used once: a restarted process has a new name. So a lost link stays lost, messages to it are dropped,
and the owner of `on_lost` decides what happens next.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from histrio.errors import WireError
from histrio.messages import Message
from histrio.net.endpoints import checked_endpoint, socket_address
from histrio.net.keys import LinkKeys
from histrio.net.peer import DEFAULT_LIMITS, LinkLimits, Peer, PeerState
from histrio.net.router import LinkChange, Router, Sending
from histrio.net.wakeup import WakeUp
from histrio.net.wire import Frame, decode, encode
from histrio.system.own_time import OwnTime

__all__ = ["MOST_BATCH_MESSAGES", "Delivery", "IoThread", "LinkLimits"]

Delivery = list[tuple[str, Message, str]]
"""(actor, message, sender's process), in the order each sender sent them."""

MOST_BATCH_MESSAGES = 256
BEAT_ACTOR = "root"
"""The actor that hears the beats of device processes."""

_RETRY_S = 0.005
_HANDSHAKE_CHECK_S = 0.1
_PROBE_S = 0.5
"""Seconds for which, after an accepted connection broke, the peers are probed for the one that is gone."""
_JOIN_MARGIN_S = 5.0

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Beat:
    process: str
    actor: str
    make: Callable[[], Message]
    every_s: float
    due: float


class IoThread:
    """Sends and receives for one process. `deliver` and `on_lost` are called on the I/O thread and must not block.

    `process` is the name others know it by. `endpoint` is where it listens (`ipc://PATH`, `tcp://127.0.0.1:PORT`,
    port 0 for a free one), None if it only dials; after `start` it has the real port. `also` are further ones. All
    processes of a run know `secret`; messages of a process that does not know it are dropped. Links to other machines
    need `keys`.
    """

    def __init__(
        self,
        process: str,
        endpoint: str | None,
        deliver: Callable[[Delivery], None],
        on_lost: Callable[[str], None],
        *,
        limits: LinkLimits = DEFAULT_LIMITS,
        secret: str = "",
        also: Sequence[str] = (),
        keys: LinkKeys | None = None,
    ) -> None:
        self.process = process
        self.endpoint = None if endpoint is None else checked_endpoint(endpoint)
        self.also = [checked_endpoint(each) for each in also]
        self._deliver, self._on_lost, self._limits = deliver, on_lost, limits
        self._secret, self._keys = secret, keys
        self._thread = threading.Thread(target=self._run, name=f"io:{process}", daemon=True)
        self._wake = WakeUp()

        self._sender = 0
        """The thread whose wake-ups are put off; 0 for none."""
        self._call_soon: Callable[[Callable[[], None]], object] = lambda call: call()
        self._is_wake_due = False

        # Shared between threads, under the lock.
        self._lock = threading.Lock()
        self._peers: dict[str, Peer] = {}
        self._changed: dict[Peer, None] = {}
        self._beats: list[_Beat] = []
        self._linger_s: float | None = None
        self._is_leaving = False
        self._new_endpoints: list[str] = []
        self.has_failed = False
        """Whether the thread ended by a failure: nothing is sent or received any more."""

        # Of the I/O thread alone.
        self._dialled: dict[str, Peer] = {}
        self._pending: dict[Peer, None] = {}
        self._broken: dict[Peer, str] = {}
        self._probe_until = 0.0
        self._time = OwnTime()

    # --- for any thread ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen and begin. Raises `WireError` if the endpoint cannot be had."""
        self._router = Router(self.process, self._limits, self._secret, self._keys, self._time)
        try:
            if self.endpoint is not None:
                self.endpoint = self._router.bind(self.endpoint)
            self.also = [self._router.bind(each) for each in self.also]
        except WireError:
            self._router.close(0)
            raise

        self._thread.start()

    def listen_also(self, endpoint: str) -> None:
        """Accept connections here too; present connections stay. For an ipc socket whose file was removed."""
        with self._lock:
            self._new_endpoints.append(checked_endpoint(endpoint))
        self._wake.set()

    def admit(self, peer_id: str) -> None:
        """Let processes of this machine dial in from now on. Raises `WireError` without keys."""
        if self._router.gate is None:
            raise WireError(f"{self.process} has no keys for encrypted links")
        self._router.gate.admit(peer_id)

    def expel(self, peer_id: str) -> None:
        """Refuse this machine's processes from now on; connections that stand stay."""
        if self._router.gate is not None:
            self._router.gate.expel(peer_id)

    def connect(self, process: str, endpoint: str, *, is_parent: bool = False) -> None:
        """Dial a process that listens there, repeatedly for `connect_timeout_s`. Does nothing if it is known.

        A parent is lost when the connection breaks, and never for its silence: it may be stopped and go on.
        """
        endpoint = checked_endpoint(endpoint)
        with self._lock:
            peer = self._peer(process)
            if peer.is_final:
                raise WireError(f"process {process!r} has been here before; a name is used once")

            if peer.endpoint is None and peer.state is PeerState.NEW:
                peer.endpoint, peer.is_parent = endpoint, is_parent
            self._changed[peer] = None
        self._wake.set()

    def disconnect(self, process: str) -> None:
        """Forget a process: nothing is sent to it or taken from it any more, and `on_lost` is not called."""
        with self._lock:
            peer = self._peer(process)
            if not peer.is_final:
                peer.end(PeerState.LEFT)
            self._changed[peer] = None
        self._wake.set()

    def send(self, process: str, actor: str, message: Message) -> None:
        """Send without waiting, in order per process; to a lost or forgotten process, or after `close`, do nothing.

        Tensors of 64 KiB and more must not change until the message is sent. Raises `WireError` if the message cannot
        be encoded, or if too much waits for this process; in the second case the process is lost.
        """
        frames = encode(actor, message)
        try:
            with self._lock:
                peer = self._peer(process)
                if peer.is_final or self._linger_s is not None:
                    return

                self._changed[peer] = None
                peer.put(frames, self._limits)
        finally:
            if threading.get_ident() == self._sender:
                self._wake_soon()
            else:
                self._wake.set()

    def put_off_wakes(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """What the calling thread sends from now on goes out when `call_soon` calls what it is given, all of it at
        once: each wake-up takes the interpreter's lock from the sender."""
        self._sender, self._call_soon = threading.get_ident(), call_soon

    def beat(self, process: str, make: Callable[[], Message], every_s: float = 0.5, *, actor: str = BEAT_ACTOR) -> None:
        """Have the I/O thread tell an actor of `process` what `make` returns, now and every so many seconds.

        It shows that this process lives even while its main thread computes. `make` runs on the I/O thread.
        """
        with self._lock:
            self._beats.append(_Beat(process, actor, make, every_s, due=0.0))
        self._wake.set()

    def leave(self) -> None:
        """All processes end: from now on `on_lost` is not called."""
        self._is_leaving = True

    def close(self, linger_s: float = 1.0) -> None:
        """Send what waits, for `linger_s` at most, and end; returns when the sockets are closed. Safe to call twice."""
        with self._lock:
            if self._linger_s is None:
                self._linger_s = linger_s
        self._wake.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(linger_s + _JOIN_MARGIN_S)

    def _wake_soon(self) -> None:
        if self._is_wake_due:
            return
        try:
            self._call_soon(self._wake_now)
            self._is_wake_due = True
        except RuntimeError:  # the sender's loop has closed
            self._wake.set()

    def _wake_now(self) -> None:
        self._is_wake_due = False
        self._wake.set()

    def _peer(self, process: str) -> Peer:
        peer = self._peers.get(process)
        if peer is None:
            peer = self._peers[process] = Peer(process)
        return peer

    # --- on the I/O thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._linger_s is None:
                self._turn()
            self._flush_until(self._time() + self._linger_s)
        except Exception:
            self.has_failed = True
            logger.critical("the I/O thread of %s failed; all its links are lost", self.process, exc_info=True)
            self._lose_all()
        finally:
            self._router.close(int(1000 * (self._linger_s or 0.0)))

    def _turn(self) -> None:
        ready = self._router.poll(self._wake.fd, self._timeout_ms())
        if ready.is_woken:
            self._wake.clear()
        now = self._time()
        self._listen_anew()
        self._send_beats(now)
        self._flush_changed(now)
        if ready.has_messages:
            self._receive()
        if ready.has_changes:
            for change in self._router.changes():
                self._note(change, now)
        self._retry(now)
        self._probe(now)
        # Only when all is received, since what a dying process said last is still to be heard.
        if self._broken and self._receive():
            self._lose_broken()

    def _timeout_ms(self) -> int:
        """Milliseconds until the next beat, retry or probe; -1 if there is none."""
        if self._broken or self._changed:
            return 0

        now = self._time()
        waits = [beat.due - now for beat in self._beats]
        waits += [_RETRY_S if peer.waiting else _HANDSHAKE_CHECK_S for peer in self._pending]
        if now < self._probe_until:
            waits.append(_RETRY_S)
        return max(0, int(1000 * min(waits)) + 1) if waits else -1

    def _listen_anew(self) -> None:
        while self._new_endpoints:
            with self._lock:
                endpoint = self._new_endpoints.pop(0)
            try:
                self._router.bind(endpoint)
            except WireError as error:
                logger.error("%s: %s", self.process, error)

    def _send_beats(self, now: float) -> None:
        if not self._beats:
            return

        with self._lock:
            self._beats = [beat for beat in self._beats if not self._peer(beat.process).is_final]
            due = [beat for beat in self._beats if beat.due <= now]
        for beat in due:
            beat.due = now + beat.every_s
            try:
                self.send(beat.process, beat.actor, beat.make())
            except WireError as error:
                logger.warning("no beat: %s", error)

    def _flush_changed(self, now: float) -> None:
        if not self._changed:
            return

        with self._lock:
            changed, self._changed = self._changed, {}
        for peer in changed:
            self._flush(peer, now)

    def _flush(self, peer: Peer, now: float) -> None:
        """Bring the socket into agreement with the peer: dialled or not, and all that waits handed over."""
        if peer.is_final:
            self._hang_up(peer)
            return

        if peer.is_refusing:
            self._broken[peer] = "too much waited for it"
            return

        if peer.endpoint is not None and not peer.is_dialled:
            self._dial(peer, peer.endpoint, now)
        for _ in range(MOST_BATCH_MESSAGES):
            with self._lock:
                outgoing = peer.take() if peer.waiting else None
            if outgoing is None:
                return

            sending = self._router.send(peer.process, outgoing.frames)
            if sending is not Sending.DONE:
                with self._lock:
                    peer.put_back(outgoing)
                self._stall(peer, sending, now)
                return

            # The socket takes messages for a peer it dials before that one answers.
            if peer.state is PeerState.UP:
                peer.stalled_at = None
            elif peer.endpoint is None:
                self._mark_up(peer)
        # The others' turn; the rest goes at once afterwards.
        with self._lock:
            self._changed[peer] = None

    def _stall(self, peer: Peer, sending: Sending, now: float) -> None:
        if sending is Sending.UNKNOWN and peer.state is PeerState.UP:
            self._broken[peer] = "it is gone"
            return

        if peer.stalled_at is None:
            peer.stalled_at = now
        self._pending[peer] = None

    def _retry(self, now: float) -> None:
        for peer in list(self._pending):
            self._flush(peer, now)
            if peer.is_final or peer in self._broken or peer.stalled_at is None:
                del self._pending[peer]
                continue

            is_new = peer.state is PeerState.NEW
            limit_s = self._limits.connect_timeout_s if is_new else self._limits.stall_timeout_s
            if now - peer.stalled_at > limit_s and (is_new or not peer.is_parent):
                del self._pending[peer]
                self._broken[peer] = (
                    f"no connection in {limit_s:g} s" if is_new else f"it took nothing for {limit_s:g} s"
                )

    def _receive(self) -> bool:
        """Deliver a batch; tells whether nothing more is there."""
        batch: Delivery = []
        is_drained = False
        for _ in range(MOST_BATCH_MESSAGES):
            received = self._router.receive()
            if received is None:
                is_drained = True
                break

            sender, frames = received
            if sender:
                self._take(sender, frames, batch)
        if batch:
            self._deliver(batch)
        return is_drained

    def _take(self, process: str, frames: list[Frame], batch: Delivery) -> None:
        peer = self._peers.get(process)
        if peer is None:
            with self._lock:
                peer = self._peer(process)
        if peer.is_final or peer.is_garbled:
            return

        if peer.state is PeerState.NEW:
            self._mark_up(peer)
        # An empty header is a probe.
        if not frames[0]:
            return

        try:
            actor, message = decode(frames)
        except WireError as error:
            peer.is_garbled = True
            self._broken[peer] = str(error)
            return

        batch.append((actor, message, process))

    def _note(self, change: LinkChange, now: float) -> None:
        peer = self._dialled.get(change.endpoint)
        if change.is_refused:
            if peer is not None:
                self._broken[peer] = "it does not admit this machine's key, or has another key itself"
            return
        if change.is_up:
            if peer is not None:
                self._mark_up(peer)
        elif peer is None:
            self._probe_until = now + _PROBE_S
        elif peer.state is PeerState.UP:
            self._broken[peer] = "the connection broke"

    def _probe(self, now: float) -> None:
        """Find out which of the processes that dialled this one is gone: the monitor does not know their names."""
        if now >= self._probe_until:
            return

        for peer in list(self._peers.values()):
            is_candidate = peer.state is PeerState.UP and not peer.is_dialled
            if is_candidate and self._router.send(peer.process, [b""]) is Sending.UNKNOWN:
                self._broken[peer] = "the connection broke"

    def _mark_up(self, peer: Peer) -> None:
        with self._lock:
            if peer.state is PeerState.NEW:
                peer.state = PeerState.UP
                peer.stalled_at = None

    def _dial(self, peer: Peer, endpoint: str, now: float) -> None:
        if not self._router.dial(peer.process, endpoint, has_heartbeats=not peer.is_parent):
            peer.endpoint = None
            self._mark_up(peer)
            return

        peer.is_dialled = True
        peer.stalled_at = now
        self._dialled[socket_address(endpoint)] = peer
        self._pending[peer] = None

    def _hang_up(self, peer: Peer) -> None:
        if peer.is_dialled and peer.endpoint is not None:
            peer.is_dialled = False
            del self._dialled[socket_address(peer.endpoint)]
            self._router.hang_up(peer.endpoint)

    def _lose_broken(self) -> None:
        broken, self._broken = self._broken, {}
        for peer, reason in broken.items():
            self._lose(peer, reason)
            self._hang_up(peer)

    def _lose(self, peer: Peer, reason: str) -> None:
        with self._lock:
            if peer.is_final:
                return

            peer.end(PeerState.LOST)
        if self._is_leaving:
            return

        logger.info("%s lost its link to %s: %s", self.process, peer.process, reason)
        self._on_lost(peer.process)

    def _lose_all(self) -> None:
        with self._lock:
            peers = list(self._peers.values())
        for peer in peers:
            self._lose(peer, "the I/O thread failed")

    def _flush_until(self, deadline: float) -> None:
        while (now := self._time()) < deadline:
            self._flush_changed(now)
            self._retry(now)
            if not any(peer.waiting for peer in list(self._peers.values())):
                return

            self._router.poll(self._wake.fd, int(1000 * _RETRY_S))
