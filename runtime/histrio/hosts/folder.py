"""The folder in which a machine keeps its key and the keys it knows: `$XDG_CONFIG_HOME/histrio`, mode 0700.

Every file is one JSON value, written whole under another name and renamed, so that a reader finds the old or the new
one.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from histrio.errors import WireError
from histrio.net.keys import HostKey

__all__ = ["HostFolder", "host_folder"]

T = TypeVar("T")

_IDENTITY = "identity"
_LOCK = ".lock"
_SEED_BYTES = 32
_MOST_BYTES = 4 * 2**20
_OTHERS = 0o077


def host_folder(path: Path | None = None) -> HostFolder:
    """The folder at `path`, else that of the user, made if it is not there. Raises `WireError`."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    folder = Path(base).expanduser() / "histrio" if path is None else path
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise WireError(f"the folder {folder} cannot be made: {error.strerror}") from None
    return HostFolder(folder)


class HostFolder:
    """Reads and writes the files of one machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def key(self) -> HostKey:
        """This machine's key, made at the first call and the same ever after. Raises `WireError` if others can read
        it."""
        file = self.path / _IDENTITY
        with self._locked():
            if not file.exists():
                self._write(file, secrets.token_hex(_SEED_BYTES).encode() + b"\n")
        data = self._read(file)
        if file.stat().st_mode & _OTHERS:
            raise WireError(
                f"{file} can be read by other users; make it private (chmod 600) or remove it for a new key"
            )

        try:
            return HostKey(bytes.fromhex(data.decode().strip()))
        except ValueError:
            raise WireError(f"{file} is damaged; with it removed this machine gets a new key, and joins anew") from None

    def read(self, name: str, kind: type[T], default: T) -> T:
        """The value in a file; the default where there is none. Raises `WireError` for a damaged file."""
        file = self.path / name
        if not file.exists():
            return default

        try:
            return msgspec.json.decode(self._read(file), type=kind)
        except msgspec.DecodeError as error:
            raise WireError(f"{file} is damaged ({error}); mend or remove it") from None

    def changed_at(self, name: str) -> int:
        """When the file was written last, in nanoseconds; 0 where there is none."""
        try:
            return (self.path / name).stat().st_mtime_ns
        except OSError:
            return 0

    @contextmanager
    def changing(self, name: str, kind: type[T], default: T) -> Iterator[T]:
        """The value, which the block may change; it is then written. One at a time, also among processes."""
        with self._locked():
            value = self.read(name, kind, default)
            yield value
            self._write(self.path / name, msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _read(self, file: Path) -> bytes:
        try:
            with file.open("rb") as stream:
                return stream.read(_MOST_BYTES)
        except OSError as error:
            raise WireError(f"{file} cannot be read: {error.strerror}") from None

    def _write(self, file: Path, data: bytes) -> None:
        new = file.with_name(f"{file.name}.{os.getpid()}.new")
        try:
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(fd, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            new.rename(file)
        except OSError as error:
            new.unlink(missing_ok=True)
            raise WireError(f"{file} cannot be written: {error.strerror}") from None
