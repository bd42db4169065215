"""One process at the other end of a link, as the I/O thread knows it: its state and what is yet to be sent to it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto

import msgspec

from histrio.errors import WireError
from histrio.net.wire import Frame, frames_bytes

__all__ = ["DEFAULT_LIMITS", "LinkLimits", "Outgoing", "Peer", "PeerState"]


class LinkLimits(msgspec.Struct, frozen=True):
    """Bounds of every link of a process; nothing on it is unbounded."""

    high_water_mark: int = 4096
    """Messages per peer and direction inside ZeroMQ; what it does not take waits in the peer's queue."""
    max_queued_messages: int = 16384
    """Messages that may wait for one peer beyond the high-water mark; more means that the peer is lost."""
    max_queued_bytes: int = 1 << 30
    """Bytes that may wait for one peer; a single larger message may wait if no other does."""
    max_frame_bytes: int = 1 << 30
    """A peer that announces a longer frame is disconnected."""
    heartbeat_interval_ms: int = 500
    """Interval of heartbeats; 0: none are sent, and a peer is lost only when its connection breaks."""
    heartbeat_timeout_ms: int = 5000
    """A peer whose system answers nothing for so long is lost."""
    connect_timeout_s: float = 30.0
    """How long the first connection may take: of a process that is dialled, or that a message waits for."""
    stall_timeout_s: float = 10.0
    """How long a connected peer may take nothing while messages wait for it. Its I/O thread always reads, so it stands
    still; heartbeats miss that when the system's buffers are full, as they are behind the messages."""


DEFAULT_LIMITS = LinkLimits()


class PeerState(Enum):
    """Where a link stands; the last two are final, since a process name is used once."""

    NEW = auto()
    """Nothing has come from it and nothing has reached it."""
    UP = auto()
    LOST = auto()
    LEFT = auto()
    """Disconnected on purpose."""


@dataclass(slots=True)
class Outgoing:
    """An encoded message on its way into the socket."""

    frames: list[Frame]
    num_bytes: int


@dataclass(slots=True, eq=False)
class Peer:
    """Shared between threads under the I/O thread's lock, except for what only that thread touches."""

    process: str
    endpoint: str | None = None
    """Where to dial it; None if it dials this process."""
    is_parent: bool = False
    """Whether this process dialled it as its parent, whose silence does not mean that it is lost."""
    state: PeerState = PeerState.NEW
    waiting: deque[Outgoing] = field(default_factory=deque)
    num_waiting_bytes: int = 0
    is_refusing: bool = False
    """A message did not fit into its queue."""
    is_dialled: bool = False
    """Only for the I/O thread, as are the next ones."""
    is_garbled: bool = False
    """Whether it sent bytes that are no message, so that its further bytes cannot be trusted either."""
    stalled_at: float | None = None
    """When the oldest waiting message was first refused."""

    @property
    def is_final(self) -> bool:
        """Whether nothing will be sent or received any more."""
        return self.state in (PeerState.LOST, PeerState.LEFT)

    def put(self, frames: list[Frame], limits: LinkLimits) -> None:
        """Queue a message. Raises `WireError`, and takes nothing ever after, if the queue is over its limits."""
        num_bytes = frames_bytes(frames)
        is_long = len(self.waiting) >= limits.max_queued_messages
        is_large = bool(self.waiting) and self.num_waiting_bytes + num_bytes > limits.max_queued_bytes
        if self.is_refusing or is_long or is_large:
            self.is_refusing = True
            waiting = f"{len(self.waiting)} messages, {self.num_waiting_bytes} bytes"
            raise WireError(f"{self.process} takes no more: {waiting} wait for it")

        self.waiting.append(Outgoing(frames, num_bytes))
        self.num_waiting_bytes += num_bytes

    def take(self) -> Outgoing:
        """Remove the oldest waiting message."""
        outgoing = self.waiting.popleft()
        self.num_waiting_bytes -= outgoing.num_bytes
        return outgoing

    def put_back(self, outgoing: Outgoing) -> None:
        """Undo `take`: the socket did not take the message."""
        if self.is_final:
            return

        self.waiting.appendleft(outgoing)
        self.num_waiting_bytes += outgoing.num_bytes

    def end(self, state: PeerState) -> None:
        """Enter a final state and drop what waits."""
        self.state = state
        self.waiting.clear()
        self.num_waiting_bytes = 0
