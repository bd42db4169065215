"""A mark that outlives its process: whether that ended inside code that works for single requests, such as a sampler.

An exception is noted where it passes. A process that is killed, by its own code or by the system, can say nothing any
more; one byte in a file that its parent reads says whether such code was running.
"""

from __future__ import annotations

import mmap
from pathlib import Path

__all__ = ["RequestCode", "ended_inside", "mark_in"]

_INSIDE, _OUTSIDE = 1, 0
_mark: bytearray | mmap.mmap = bytearray(1)


class RequestCode:
    """Entered around each call of such code; cheap enough for every step."""

    def __enter__(self) -> None:
        _mark[0] = _INSIDE

    def __exit__(self, *_error: object) -> None:
        _mark[0] = _OUTSIDE


def mark_in(file: Path) -> None:
    """Keep the mark of this process in a file from now on."""
    global _mark
    file.write_bytes(bytes(1))
    with file.open("r+b") as stream:
        _mark = mmap.mmap(stream.fileno(), 1)


def ended_inside(file: Path) -> bool:
    """Whether the process that kept its mark there ended inside of it. Removes the file."""
    try:
        is_inside = file.read_bytes() == bytes([_INSIDE])
        file.unlink()
    except OSError:  # it never began, or the folder was cleared
        return False
    return is_inside
