"""A private folder for a run's ipc sockets: mode 0700, short path, removed at the end.

While the run lives it holds a lock on a file in the folder. A folder whose lock is free belongs to a dead run; the
next run removes it. (Not by process number: runs in two containers may share the folder but not the numbers.)
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from histrio.errors import WireError
from histrio.net.endpoints import checked_endpoint

__all__ = ["check_room", "runtime_dir"]

_PREFIX = "histrio-"
_LOCK, _TRIAL = "lock", "trial"
_NAME_BYTES = 24
"""What the name of a process may take of a socket's path."""
_FILE_BYTES = 32768
"""What the longest file takes that a process makes there: the record of its steps."""


@contextmanager
def runtime_dir(base: Path | None = None) -> Iterator[Path]:
    """The folder, under `base`, else $XDG_RUNTIME_DIR, else the system's folder for temporary files.

    Raises `WireError` if there its path is too long for sockets, or if it cannot be made and filled.
    """
    parent = _default_base() if base is None else base
    _remove_stale(parent)
    try:
        path, lock_fd = _make_locked(parent)
    except OSError as error:
        raise _no_room(parent, error) from error

    try:
        checked_endpoint(f"ipc://{path / ('x' * _NAME_BYTES)}")
        check_room(path)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock_fd)


def check_room(folder: Path) -> None:
    """Makes the folder if it was removed. Raises `WireError` if a process could not make its socket and its record
    there."""
    file, socket_file = folder / f"{_TRIAL}.mark", folder / _TRIAL
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        with socket.socket(socket.AF_UNIX) as trial:
            trial.bind(str(socket_file))
            file.write_bytes(bytes(_FILE_BYTES))
    except OSError as error:
        raise _no_room(folder.parent, error) from error
    finally:
        for each in (socket_file, file):
            with suppress(OSError):
                each.unlink()


def _no_room(parent: Path, error: OSError) -> WireError:
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "free some space there (bytes and inodes), or name" if is_full else "name"
    is_given = os.environ.get("XDG_RUNTIME_DIR") == str(parent)
    other = "another private folder in XDG_RUNTIME_DIR" if is_given else "another folder in TMPDIR"
    return WireError(f"the sockets of this run need a folder in {parent}: {error.strerror}; {remedy} {other}")


def _default_base() -> Path:
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(given) and _is_ours(Path(given)) and os.access(given, os.W_OK | os.X_OK):
        return Path(given)

    try:
        return Path(tempfile.gettempdir()).resolve()
    except FileNotFoundError as error:  # it is one if all of them are full, too
        raise WireError(
            "the sockets of this run need a folder for temporary files, and none can be written to: free some space "
            f"(bytes and inodes), or name a private folder in XDG_RUNTIME_DIR; {error.strerror}"
        ) from error


def _make_locked(parent: Path) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        try:
            lock_fd = os.open(path / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        except OSError:
            path.rmdir()
            raise

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
