"""Packed weights on disk: what rounding and repacking of a checkpoint made is copied at the next start.

A file holds the linears of one stage whose packing costs more than a copy: rounded ones, and those of blocks. Its name
says of which weights it was made, by which library and how; whatever is not exactly as expected is made anew. Files
that were used least recently are removed where all together would take more than the bound.

    magic, length and SHA-256 of the header │ header (JSON) │ … │ packed linears, each at a multiple of 64
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

__all__ = ["PackedFile", "PackedWriter", "Slot", "cache_folder", "slots_of"]

log = logging.getLogger(__name__)

Bytes = npt.NDArray[np.uint8]

_MAGIC = b"histrio packed 1"
_SUFFIX = ".packed"
_UNFINISHED = ".new-"
_ABANDONED_S = 3600
_ALIGNMENT = 64
_MOST_HEADER_BYTES = 64 * 2**20
_PIECE_BYTES = 16 * 2**20
"""Written at a time, so that a stage which closes waits for no more."""
_SPARE_BYTES = 2**30
"""Of the disk, left to others."""
_PREFIX_BYTES = len(_MAGIC) + 8 + hashlib.sha256().digest_size


class Slot(msgspec.Struct, frozen=True):
    """Where one linear lies."""

    name: str
    offset: int
    num_bytes: int
    format: int
    """`abi.Format` in which it was handed over."""
    storage: int
    """`abi.Storage` as which it is kept."""


class _Header(msgspec.Struct, frozen=True):
    key: str
    slots: list[Slot]


def cache_folder() -> Path:
    """Where the files are: `histrio/packed` in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "histrio" / "packed"


def slots_of(key: str, slots: Sequence[Slot]) -> list[Slot]:
    """The layout of a file with these linears, in their order; where they lay before does not matter."""
    empty = msgspec.json.encode(_Header(key, [replace(slot, offset=2**62) for slot in slots]))
    placed, at = [], _aligned(_PREFIX_BYTES + len(empty))
    for slot in slots:
        placed.append(replace(slot, offset=at))
        at = _aligned(at + slot.num_bytes)
    return placed


class PackedFile:
    """A file of the cache, mapped. The library copies what it takes, because a file's pages are small ones: steps that
    read weights there were measured to take a tenth longer."""

    def __init__(self, content: Bytes, slots: Sequence[Slot]) -> None:
        self._content = content
        self.slots = {slot.name: slot for slot in slots}

    @classmethod
    def find(cls, key: str, layout: Callable[[Sequence[Slot]], Sequence[Slot]]) -> PackedFile | None:
        """The file of this key; None where there is none, with a log line where one is not as it must be. `layout`
        says how slots with these names and formats must lie, or raises ValueError."""
        file = cache_folder() / (key + _SUFFIX)
        try:
            content = _mapped(file)
            slots = _slots_in(content, key)
            if not slots or slots != list(layout(slots)) or len(content) != _end(slots):
                raise ValueError("the layout is another one")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, msgspec.MsgspecError) as error:  # empty files cannot be mapped
            log.info("%s is no file of packed weights as expected (%s); it is made anew", file, error)
            return None

        with suppress(OSError):
            os.utime(file)
        return cls(content, slots)

    def read(self, slot: Slot) -> Bytes:
        """A packed linear, where it lies."""
        return self._content[slot.offset : slot.offset + slot.num_bytes]


class PackedWriter:
    """Writes a file of the cache on a thread of its own, from weights that stay where they are until `close`."""

    def __init__(self, key: str, slots: Sequence[Slot], read: Callable[[Slot], Bytes], most_bytes: int) -> None:
        self._key, self._slots, self._read = key, slots, read
        self._most_bytes = most_bytes
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="packed-weights", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait for the file; give it up where it would take long. Safe to call twice."""
        self._is_stopping.set()
        self._thread.join()

    def wait(self) -> None:
        """Wait until the file is there, or cannot be."""
        self._thread.join()

    def _run(self) -> None:
        folder, needed = cache_folder(), _end(self._slots)
        try:
            if needed > self._most_bytes:
                log.info("packed weights of %d MB are more than packed-cache-gib lets be kept", needed // 10**6)
                return
            folder.mkdir(parents=True, exist_ok=True)
            _make_room(folder, self._most_bytes - needed)
            if shutil.disk_usage(folder).free < needed + _SPARE_BYTES:
                log.info("packed weights of %d MB are not kept in %s: its disk is nearly full", needed // 10**6, folder)
                return
            self._write(folder)
        except OSError as error:
            log.info("packed weights are not kept in %s: %s", folder, error.strerror or error)

    def _write(self, folder: Path) -> None:
        descriptor, unfinished = tempfile.mkstemp(prefix=_UNFINISHED, dir=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(_prefix(_Header(self._key, list(self._slots))))
                for slot in self._slots:
                    file.seek(slot.offset)
                    content = self._read(slot)
                    for begin in range(0, slot.num_bytes, _PIECE_BYTES):
                        if self._is_stopping.is_set():
                            return
                        file.write(content[begin : begin + _PIECE_BYTES].data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, folder / (self._key + _SUFFIX))
        finally:
            Path(unfinished).unlink(missing_ok=True)


def _mapped(file: Path) -> Bytes:
    with file.open("rb") as stream:
        memory = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_WILLNEED"):
        memory.madvise(mmap.MADV_WILLNEED)
    return np.frombuffer(memory, np.uint8)


def _slots_in(content: Bytes, key: str) -> list[Slot]:
    """The slots that the header lists. Raises ValueError for a header of another form, or that was changed."""
    prefix = content[:_PREFIX_BYTES].tobytes()
    length = int.from_bytes(prefix[len(_MAGIC) : len(_MAGIC) + 8], "little")
    if not prefix.startswith(_MAGIC) or length > min(_MOST_HEADER_BYTES, len(content)):
        raise ValueError("it has no header")

    encoded = content[_PREFIX_BYTES : _PREFIX_BYTES + length].tobytes()
    if hashlib.sha256(encoded).digest() != prefix[len(_MAGIC) + 8 :]:
        raise ValueError("the header was changed")
    header = msgspec.json.decode(encoded, type=_Header)
    if header.key != key:
        raise ValueError("it is of other weights")
    return header.slots


def _prefix(header: _Header) -> bytes:
    encoded = msgspec.json.encode(header)
    return _MAGIC + len(encoded).to_bytes(8, "little") + hashlib.sha256(encoded).digest() + encoded


def _end(slots: Sequence[Slot]) -> int:
    return slots[-1].offset + slots[-1].num_bytes


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


def _make_room(folder: Path, most_bytes: int) -> None:
    """Remove the files that were used least recently until the others take at most `most_bytes`, and those that a
    process which ended has left unfinished."""
    for file in folder.glob(f"{_UNFINISHED}*"):
        if time.time() - file.stat().st_mtime > _ABANDONED_S:
            file.unlink(missing_ok=True)
    files = sorted((file.stat().st_mtime_ns, file.stat().st_size, file) for file in folder.glob(f"*{_SUFFIX}"))
    total = sum(size for _used, size, _file in files)
    for _used, size, file in files:
        if total <= most_bytes:
            return
        file.unlink(missing_ok=True)
        total -= size
