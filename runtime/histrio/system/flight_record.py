"""What a process computes now, in memory that outlives it: which step, whose rows, in whose code.

A process that is killed, by its own code or by the system, can say nothing any more, and one that hangs says nothing
either. So its device's thread writes a few bytes of a mapped file before it enters code that may never come back, and
its parent reads them when the process is gone. There is one record per process.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["MOST_ROWS", "Code", "Flight", "FlightRow", "begin_step", "end_step", "read_flight", "record_in", "seat"]

MOST_ROWS = 1024
"""Rows of a step that are recorded; of a larger one only its number is."""
_Ints = npt.NDArray[np.int32]
_STEP = struct.Struct("=iiq")
"""Whether a step runs, how many rows of it are recorded, and its number."""
_REQUEST = struct.Struct("=q")
_CODE_BYTES = 128
_CODE_AT = {False: _STEP.size, True: _STEP.size + _CODE_BYTES}
"""Offset of the code's name: of the device's thread, and of the thread beside it that computes masks."""
_ROWS_AT = _CODE_AT[True] + _CODE_BYTES
"""All slots, all starts, all numbers of tokens, as int32."""
_REQUESTS_AT = _ROWS_AT + 12 * MOST_ROWS
"""Offset of the requests, by slot."""
_NUM_BYTES = _REQUESTS_AT + _REQUEST.size * MOST_ROWS
_NOT_INSIDE = 0
_memory: bytearray | mmap.mmap = bytearray(_NUM_BYTES)


class FlightRow(NamedTuple):
    """A row of the step: the tokens `start:end` of a request."""

    request: int
    start: int
    end: int


class Flight(NamedTuple):
    """What a process was doing when it wrote last."""

    step: int
    rows: list[FlightRow]
    """Empty where no step ran, or one of more than `MOST_ROWS` rows."""
    code: str
    """The code that ran, such as `sampler 'mirostat' (module)`; empty for the core's own."""
    is_request_code: bool
    """Whether that code works for single requests, as samplers and grammars do."""


class Code:
    """Entered around each call of code that may end the process, or never come back. Costs 0.2 µs."""

    __slots__ = ("_at", "_text", "name")

    def __init__(self, name: str, *, is_request_code: bool = True, is_beside: bool = False) -> None:
        """`is_beside`: it runs on the thread beside the device's."""
        self.name = name
        self._at = _CODE_AT[is_beside]
        text = name.encode()[: _CODE_BYTES - 1]
        self._text = bytes([2 if is_request_code else 1]) + text.ljust(_CODE_BYTES - 1, b"\0")

    def __enter__(self) -> None:
        _memory[self._at : self._at + _CODE_BYTES] = self._text

    def __exit__(self, *_error: object) -> None:
        _memory[self._at] = _NOT_INSIDE


def record_in(file: Path) -> None:
    """Keep the record of this process in a file from now on."""
    global _memory
    file.write_bytes(bytes(_NUM_BYTES))
    with file.open("r+b") as stream:
        _memory = mmap.mmap(stream.fileno(), _NUM_BYTES)


def seat(slot: int, request: int) -> None:
    """Rows of this slot are the request's from now on."""
    if slot < MOST_ROWS:
        _REQUEST.pack_into(_memory, _REQUESTS_AT + _REQUEST.size * slot, request)


def begin_step(step: int, slots: _Ints, starts: _Ints, num_tokens: _Ints) -> None:
    """These rows are computed from now on."""
    num_rows = len(slots)
    if num_rows > MOST_ROWS:
        _STEP.pack_into(_memory, 0, 1, 0, step)
        return

    rows = b"".join((slots.tobytes(), starts.tobytes(), num_tokens.tobytes()))
    _memory[_ROWS_AT : _ROWS_AT + 12 * num_rows] = rows
    _STEP.pack_into(_memory, 0, 1, num_rows, step)


def end_step() -> None:
    """No step runs."""
    _memory[0] = 0


def read_flight(file: Path) -> Flight | None:
    """What the process that keeps its record there does, or did last; None if it never began."""
    try:
        data = file.read_bytes()
    except OSError:
        return None
    if len(data) != _NUM_BYTES:
        return None

    is_running, num_rows, step = _STEP.unpack_from(data)
    if not is_running:
        step = num_rows = 0
    slots, starts, counts = np.frombuffer(data, np.int32, 3 * num_rows, _ROWS_AT).reshape(3, num_rows).tolist()
    requests = np.frombuffer(data, np.int64, MOST_ROWS, _REQUESTS_AT).tolist()
    rows = [
        FlightRow(requests[slot], start, start + count)
        for slot, start, count in zip(slots, starts, counts, strict=True)
        if slot < MOST_ROWS
    ]
    for at in (_CODE_AT[True], _CODE_AT[False]):
        if data[at] != _NOT_INSIDE:
            name = data[at + 1 : at + _CODE_BYTES].rstrip(b"\0").decode(errors="replace")
            return Flight(step, rows, name, data[at] == 2)
    return Flight(step, rows, "", False)
