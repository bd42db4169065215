"""A private folder for a run's ipc sockets: mode 0700, short path, removed at the end.

While the run lives it holds a lock on a file in the folder. A folder whose lock nobody holds is a dead run's; the next
run removes it. (Not by process number: runs in two containers may share the folder but not the numbers.)
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from histrio.net.endpoints import checked_endpoint

__all__ = ["runtime_dir"]

_PREFIX = "histrio-"
_LOCK = "lock"
_NAME_BYTES = 24
"""What the name of a process may take of a socket's path."""


@contextmanager
def runtime_dir(base: Path | None = None) -> Iterator[Path]:
    """The folder, under `base`, else $XDG_RUNTIME_DIR, else the system's folder for temporary files.

    Raises `WireError` if there its path is too long for sockets.
    """
    parent = _default_base() if base is None else base
    _remove_stale(parent)
    path, lock_fd = _make_locked(parent)
    try:
        checked_endpoint(f"ipc://{path / ('x' * _NAME_BYTES)}")
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock_fd)


def _default_base() -> Path:
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(given) and _is_ours(Path(given)) and os.access(given, os.W_OK | os.X_OK):
        return Path(given)

    return Path(tempfile.gettempdir()).resolve()


def _make_locked(parent: Path) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock_fd = os.open(path / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(lock_fd, fcntl.LOCK_EX)
        # Another run may have found it unlocked for a moment and removed it.
        if os.fstat(lock_fd).st_nlink > 0:
            return path, lock_fd

        os.close(lock_fd)


def _remove_stale(parent: Path) -> None:
    for path in parent.glob(f"{_PREFIX}*"):
        if not _is_ours(path):
            continue

        try:
            lock_fd = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue

        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock_fd)


def _is_ours(path: Path) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False

    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
