"""What one client, and all of them together, may take of the server."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MAX_HEADERS", "MAX_URL_BYTES", "HttpLimits"]

MAX_HEADERS = 256
"""Most header lines of one request."""
MAX_URL_BYTES = 16_384
"""Longest URL."""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """The limits that an operator sets."""

    max_head_bytes: int = 65_536
    """Of request line and headers together; as much of trailers and of the frame around the pieces of a body."""
    max_connections: int = 1024
    """Open at the same time."""
    idle_s: float = 75.0
    """Longest time for a request's head to come; progress of bodies and answers is looked at as often."""
    min_bytes_per_s: int = 1024
    """Over each such time a body has to bring, and an answer that waits to be sent has to lose, so much on average."""
