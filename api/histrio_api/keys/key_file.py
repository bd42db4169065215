"""The key file: `[[key]]` tables in TOML, for its owner's eyes only, replaced as a whole whenever it is changed."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from histrio.config.tables import convert_table
from histrio.config.topology import read_file, read_tables
from histrio.errors import TopologyError
from histrio_api.keys.key import ApiKey, require_distinct

__all__ = ["KEY_FILE_MODE", "changing_keys", "read_keys", "write_keys"]

KEY_FILE_MODE = 0o600
_FOR_OTHERS = 0o077
_HEAD = "# API keys of histrio. `histrio keys` writes this file anew; comments are not kept.\n"


class _KeyFile(msgspec.Struct):
    key: list[ApiKey] = []


def read_keys(file: Path) -> list[ApiKey]:
    """The keys of a file. Raises `TopologyError`, whose text begins with the file and the place in it."""
    try:
        _require_private(file)
        keys = convert_table(read_tables(read_file(file)), _KeyFile, "").key
        require_distinct(keys)
    except (TopologyError, ValueError) as error:
        raise TopologyError("", f"{file}: {error}") from None
    return keys


def write_keys(file: Path, keys: Sequence[ApiKey]) -> None:
    """Replace the file at once: a server that reads it sees the old keys or the new ones, and no half of either."""
    text = _HEAD + "".join(_table(key) for key in keys)
    target = file.resolve()
    descriptor, written = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # of mode 0600
    try:
        with open(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(written, target)
    except BaseException:
        Path(written).unlink(missing_ok=True)
        raise


@contextmanager
def changing_keys(file: Path) -> Iterator[list[ApiKey]]:
    """The keys of a file, none if there is no file yet; what the block has made of the list is written at its end.

    Two commands at a time change it one after the other. Raises `TopologyError`.
    """
    try:
        folder = os.open(file.resolve().parent, os.O_RDONLY)
    except OSError as error:
        raise TopologyError("", f"{file}: its folder cannot be read: {error.strerror}") from None

    try:
        _lock(folder)
        keys = read_keys(file) if file.exists() else []
        yield keys
        write_keys(file, keys)
    except OSError as error:
        raise TopologyError("", f"{file}: cannot be written: {error.strerror}") from None
    finally:
        os.close(folder)


def _lock(folder: int) -> None:
    """Until the descriptor is closed."""
    import fcntl

    fcntl.flock(folder, fcntl.LOCK_EX)


def _require_private(file: Path) -> None:
    try:
        found = file.stat()
    except FileNotFoundError:
        raise TopologyError("", "there is no such file; make one with `histrio keys create`") from None
    except OSError as error:
        raise TopologyError("", f"the file cannot be read: {error.strerror}") from None

    if not stat.S_ISREG(found.st_mode):
        raise TopologyError("", "this is no file")
    if os.name == "posix" and found.st_mode & _FOR_OTHERS:
        mode = stat.S_IMODE(found.st_mode)
        raise TopologyError("", f"other users of this machine can reach the file (mode {mode:04o}); chmod 600 it")


def _table(key: ApiKey) -> str:
    given: dict[str, Any] = msgspec.to_builtins(key)
    defaults: dict[str, Any] = msgspec.to_builtins(ApiKey(name=key.name, hash=""))
    lines = [f"{name} = {_value(value)}" for name, value in given.items() if value != defaults[name] or name == "name"]
    return "\n".join(["\n[[key]]", *lines, ""])


def _value(value: Any) -> str:
    """As TOML; names and models hold no character that would have to be escaped."""
    return json.dumps(value, ensure_ascii=False)
