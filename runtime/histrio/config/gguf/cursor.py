"""Reads the values of a GGUF header one after the other, and never beyond its end.

What the header says of lengths is compared with the bytes that are left before anything is made of it, so what a
reading may allocate is bounded by the bytes that there are.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from mmap import mmap
from typing import Any, NoReturn

import numpy as np

from histrio.errors import ModelError

__all__ = ["ARRAY", "STRING", "UINT32", "UINT64", "Cursor", "shown"]

UINT32, STRING, ARRAY, UINT64 = 4, 8, 9, 10
"""Types of metadata values."""
_BOOL = 7
_CODES = {0: "B", 1: "b", 2: "H", 3: "h", UINT32: "I", 5: "i", 6: "f", _BOOL: "B", UINT64: "Q", 11: "q", 12: "d"}
"""Types of a fixed length, as `struct` calls them."""
_STRUCTS = {number: struct.Struct("<" + code) for number, code in _CODES.items()}
_DTYPES = {number: np.dtype(f"<{code}") for number, code in _CODES.items()}
_LENGTH = struct.Struct("<Q")
_MOST_DEPTH = 4
"""Of arrays in arrays; published files have none."""
_LEAST_BYTES = {STRING: 8, ARRAY: 12}
"""An empty string and an empty array."""
_MOST_SHOWN = 60


class Cursor:
    """A position in the bytes of a header. Every method raises `ModelError`, which names the file, at the end."""

    def __init__(self, data: bytes | mmap, end: int, file: object) -> None:
        """`data` may be longer than `end`, the first byte that is not read."""
        self._data = data
        self._end = end
        self.file = file
        self.at = 0

    def fail(self, fault: str) -> NoReturn:
        """Raise `ModelError` with the file's name before `fault`."""
        raise ModelError(f"{self.file}: {fault}")

    def number(self, value_type: int, what: str) -> int | float:
        """The next number of this type; `what` says what it is, in errors."""
        form = _STRUCTS[value_type]
        if self.at + form.size > self._end:
            self._fail_short(what)
        value: int | float = form.unpack_from(self._data, self.at)[0]
        self.at += form.size
        return value

    def count(self, what: str, least_bytes: int) -> int:
        """The next 64-bit number, as a count of things that take `least_bytes` each."""
        count = int(self.number(UINT64, what))
        if count > (self._end - self.at) // least_bytes:
            self.fail(f"{what} is {count}, more than the file has room for; fetch the file again")
        return count

    def string(self, what: str, most_bytes: int | None = None) -> str:
        """The next string, which must be UTF-8, and no longer than `most_bytes`."""
        length = self.count(f"the length of {what}", 1)
        if most_bytes is not None and length > most_bytes:
            self.fail(f"{what} has {length} bytes, more than {most_bytes}")
        begin = self.at
        self.at += length
        try:
            return str(self._data[begin : self.at], "utf-8")
        except UnicodeDecodeError:
            self.fail(f"{what} is not UTF-8")

    def value(self, value_type: int, key: str) -> Any:
        """The next value of metadata. Arrays of numbers become numpy's, others lists."""
        if value_type == STRING:
            return self.string(key)
        if value_type == ARRAY:
            return self._array(key, 1)
        if value_type not in _DTYPES:
            self.fail(f"{key} is of type {value_type}, which GGUF does not know")
        return self._bool(self.number(value_type, key), key) if value_type == _BOOL else self.number(value_type, key)

    def _array(self, key: str, depth: int) -> Any:
        item_type = int(self.number(UINT32, f"the type of {key}"))
        dtype = _DTYPES.get(item_type)
        if dtype is None and item_type not in _LEAST_BYTES:
            self.fail(f"{key} is an array of type {item_type}, which GGUF does not know")
        num_items = self.count(
            f"the number of items of {key}", _LEAST_BYTES[item_type] if dtype is None else dtype.itemsize
        )
        if dtype is not None:
            return self._numbers(key, item_type, dtype, num_items)
        if item_type == STRING:
            return self._strings(key, num_items)
        if depth == _MOST_DEPTH:
            self.fail(f"{key} is nested too deep")
        return [self._array(key, depth + 1) for _ in range(num_items)]

    def _numbers(self, key: str, item_type: int, dtype: np.dtype[Any], num_items: int) -> Any:
        values = np.frombuffer(self._data, dtype, num_items, self.at).copy()
        self.at += num_items * dtype.itemsize
        if item_type != _BOOL:
            return values
        if num_items and values.max() > 1:
            self.fail(f"{key} has a truth value that is neither 0 nor 1")
        return values.astype(bool)

    def _strings(self, key: str, num_items: int) -> list[str]:
        """The loop of vocabularies, a quarter of a million strings in some: so nothing is called in it but what has to
        be."""
        unpack: Callable[..., tuple[int]] = _LENGTH.unpack_from
        data, at, end = self._data, self.at, self._end
        strings = []
        for _ in range(num_items):
            if at + 8 > end:
                self._fail_short(key)
            (length,) = unpack(data, at)
            begin = at + 8
            at = begin + length
            if at > end:
                self._fail_short(key)
            strings.append(data[begin:at])
        self.at = at
        try:
            return [str(each, "utf-8") for each in strings]
        except UnicodeDecodeError:
            self.fail(f"{key} has a string that is not UTF-8")

    def _bool(self, value: float, key: str) -> bool:
        if value > 1:
            self.fail(f"{key} is {value} where a truth value, 0 or 1, belongs")
        return bool(value)

    def _fail_short(self, what: str) -> NoReturn:
        self.fail(f"cut short: it ends within {what}; fetch the file again")


def shown(text: str) -> str:
    """A name out of a file, in an error: short, and in one line."""
    cut = text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "…"
    return repr(cut)
