"""Reading the files of a model folder. They come from strangers: kind, size, encoding and depth are checked first.

Python's own reader of JSON is used, as transformers does: Python writes Infinity and NaN where JSON has no such words,
and under keys that are not read here they do no harm.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from histrio.errors import ModelError, ModelUnavailable

__all__ = ["open_model_file", "read_json_list", "read_json_object", "read_model_text"]

_MOST_BYTES = 64 * 2**20
"""The index of a model of a trillion parameters has about 10 MB."""
_MOST_DEPTH = 64
_BYTE_ORDER_MARK = "\ufeff"
_FLOATS = {"Infinity": float("inf"), "-Infinity": float("-inf"), "NaN": float("nan")}


def open_model_file(file: Path) -> BinaryIO:
    """The file, open for reading. Raises `ModelError` that names it, `ModelUnavailable` where there is none."""
    try:
        # Opening a pipe would wait for its writer, and reading a device may never end.
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        raise ModelUnavailable(f"{file} is missing") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from None

    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ModelError(f"{file} is not a file, but a folder, a pipe or a device")
    return os.fdopen(descriptor, "rb")


def read_model_text(file: Path, most_bytes: int = _MOST_BYTES) -> str:
    """The whole file as text. Raises `ModelError` that names it, `ModelUnavailable` where there is none."""
    with open_model_file(file) as stream:
        try:
            content = stream.read(most_bytes + 1)
        except OSError as error:
            raise ModelError(f"{file} cannot be read: {error.strerror}") from None
    if len(content) > most_bytes:
        raise ModelError(f"{file} is larger than {most_bytes // 2**20} MiB, so it is not what its name says")

    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ModelError(f"{file} is not a text in UTF-8; save it as such, or fetch it again") from None
    if text.startswith(_BYTE_ORDER_MARK):
        raise ModelError(f"{file} begins with a byte order mark (BOM); save it as UTF-8 without one")
    return text


def read_json_object(file: Path, *, optional: bool = False) -> dict[str, Any]:
    """The file's JSON object; with `optional` an empty one where there is no file. Raises as `read_model_text`."""
    value = _read_json(file, {} if optional else None)
    if not isinstance(value, dict):
        raise ModelError(f"{file} holds no JSON object")
    return value


def read_json_list(file: Path, *, optional: bool = False) -> list[Any]:
    """The file's JSON list, otherwise as `read_json_object`."""
    value = _read_json(file, [] if optional else None)
    if not isinstance(value, list):
        raise ModelError(f"{file} holds no JSON list")
    return value


def _read_json(file: Path, default: Any) -> Any:
    """Whatever the file holds; `default`, unless it is None, where there is no file."""
    try:
        text = read_model_text(file)
    except ModelUnavailable:
        if default is not None:
            return default
        raise

    try:
        value = json.loads(text, object_hook=_untagged)
    except RecursionError:
        raise ModelError(f"{file} is nested too deep") from None
    except json.JSONDecodeError as error:
        raise ModelError(f"{file} is not valid JSON: {error}") from None
    except ValueError:
        raise ModelError(f"{file} is not valid JSON: a number in it is too long") from None

    if _depth(value) > _MOST_DEPTH:
        raise ModelError(f"{file} is nested too deep")
    return value


def _untagged(value: dict[str, Any]) -> Any:
    """transformers 5 writes infinity, which JSON lacks, as {"__float__": "Infinity"}."""
    return _FLOATS.get(str(value["__float__"]), value) if value.keys() == {"__float__"} else value


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level and depth <= _MOST_DEPTH:
        depth += 1
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner.extend(each.values())
            elif isinstance(each, list):
                inner.extend(each)
        level = [each for each in inner if isinstance(each, dict | list)]
    return depth
