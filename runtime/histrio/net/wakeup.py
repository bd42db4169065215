"""A file descriptor by which any thread ends another one's poll."""

from __future__ import annotations

import os
import socket
import sys

__all__ = ["WakeUp"]


class WakeUp:
    """Poll `fd` for reading. Any number of `set` calls before a `clear` cost one write.

    The order matters: the sleeper calls `clear` before it looks at the shared state, the others `set` after they
    changed it.
    """

    def __init__(self) -> None:
        self._is_set = False
        if sys.platform == "linux":
            self._reader = self._writer = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            reader, writer = socket.socketpair()
            self._reader, self._writer = reader.detach(), writer.detach()
            os.set_blocking(self._reader, False)
            os.set_blocking(self._writer, False)

    @property
    def fd(self) -> int:
        """The descriptor to poll."""
        return self._reader

    def set(self) -> None:
        """End the present or the next poll."""
        if self._is_set:
            return

        self._is_set = True
        os.write(self._writer, b"\1\0\0\0\0\0\0\0")

    def clear(self) -> None:
        """Make ready for the next poll."""
        try:
            os.read(self._reader, 8)
        except BlockingIOError:
            pass
        self._is_set = False

    def __del__(self) -> None:
        # Not in a `close`: another thread may be about to write to a number that the system then gives to others.
        for fd in {self._reader, self._writer}:
            os.close(fd)
