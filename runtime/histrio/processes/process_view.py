"""What the operating system says of a child process: whether it is stopped, and whether it computes or reads.

From /proc, so that it is known on Linux only; elsewhere a process is judged by what it says alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from histrio.replica.liveness import ProcessView

__all__ = ["look"]

_PROC = Path("/proc")
_READ_BYTES_PER_S = 10_000_000
"""Reading so much from a disk counts as a second of work."""


def look(pid: int) -> ProcessView | None:
    """The process as it is now; None if it has ended, or the system does not tell."""
    status = _status(pid)
    return None if status is None else _View(pid, status.is_stopped, status.cpu_s)


@dataclass(frozen=True, slots=True)
class _Status:
    is_stopped: bool
    cpu_s: float


@dataclass(slots=True)
class _View:
    pid: int
    is_stopped: bool
    cpu_s: float

    def work_s(self) -> float:
        """Seconds that it and its descendants have computed: a backend may compile or serve in processes of its own."""
        total = 0.0
        for pid in _tree(self.pid):
            status = _status(pid)
            if status is not None:
                total += status.cpu_s + _num_read_bytes(pid) / _READ_BYTES_PER_S
        return total


def _status(pid: int) -> _Status | None:
    text = _read(_PROC / str(pid) / "stat")
    fields = text.rpartition(")")[2].split()  # its name, before, may hold blanks and brackets
    if len(fields) < 13 or fields[0] in "ZX":
        return None
    return _Status(fields[0] in "Tt", (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))


def _num_read_bytes(pid: int) -> int:
    for line in _read(_PROC / str(pid) / "io").splitlines():
        name, _, value = line.partition(": ")
        if name == "read_bytes":
            return int(value)
    return 0


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for children in _PROC.glob(f"{pid}/task/*/children"):
        for child in _read(children).split():
            yield from _tree(int(child))


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:  # it has ended, or is another user's
        return ""
