"""A request's body as JSON, decoded so that no part of it holds the process up for longer than a blink.

Each call into the decoder holds the interpreter's lock, and lists, objects and their names cost it a hundred times what
their bytes do. So the body is cut into its fields first, which makes no values; what lists and objects there are is
counted; and then each field is decoded by itself.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from histrio.errors import RequestError

__all__ = ["MAX_JSON_DEPTH", "decode_object"]

MAX_JSON_DEPTH = 128
"""Most lists and objects within each other, the body itself included."""

_PIECE_BYTES = 65_536
_PARTS = (b"[", b"{", b":")
_VALUES = (b",",)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_PLACE = re.compile(r" \(byte \d+\)| - at `.*`", re.DOTALL)


def decode_object(
    body: bytes, *, max_parts: int, max_values: int, labels: Collection[str] = frozenset()
) -> dict[str, Any]:
    """The JSON object in a request's body. `labels` are fields of which lists and objects stay as they came, if they
    are not empty.
    `max_parts` are the most lists, objects and names in objects, `max_values` the most values in lists and objects.

    Raises `RequestError`.
    """
    try:
        given = _FIELDS.decode(body)
    except msgspec.ValidationError:
        raise RequestError("the request's body must be a JSON object", code="invalid_json") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _malformed(str(error)) from None
    except RecursionError:
        raise _too_deep() from None

    fields = {name: bytes(raw) for name, raw in given.items()}
    read = {name: raw for name, raw in fields.items() if name not in labels or not _is_full(raw)}
    if len(body) > min(max_parts, max_values):  # each of them takes a byte
        _require_few(_PARTS, "lists, objects and names in objects", read.values(), max_parts)
        _require_few(_VALUES, "values", read.values(), max_values)
    return given | {name: _decode(raw) for name, raw in read.items()}


def _is_full(raw: bytes) -> bool:
    """Whether it is a list or an object with something in it."""
    return raw.startswith((b"[", b"{")) and len(raw) > len(b"[]")


def _decode(raw: bytes) -> Any:
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # A place in it is none in the body.
        raise _malformed(_PLACE.sub("", str(error))) from None
    except RecursionError:
        raise _too_deep() from None
    if raw.count(b"[") + raw.count(b"{") >= MAX_JSON_DEPTH:
        _require_shallow(value)
    return value


def _malformed(text: str) -> RequestError:
    return RequestError(f"the request's body is not valid JSON: {text}", code="invalid_json")


def _too_deep() -> RequestError:
    text = f"the request's body is too deeply nested: at most {MAX_JSON_DEPTH} lists and objects within each other"
    return RequestError(text, code="invalid_json")


def _require_few(marks: tuple[bytes, ...], what: str, fields: Iterable[bytes], most: int) -> None:
    left = most
    for raw in fields:
        left -= _count(marks, raw, left)
        if left < 0:
            text = f"the request's body has more than {most} {what}; send less of them"
            raise RequestError(text, code="invalid_json")


def _count(marks: tuple[bytes, ...], text: bytes, most: int) -> int:
    """How many of the marks are in a JSON text outside of its strings; rather more, as long as not above `most`."""
    found = sum(map(text.count, marks))
    return found if found <= most else _count_outside_strings(marks, text)


def _count_outside_strings(marks: tuple[bytes, ...], text: bytes) -> int:
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"")  # so that each quote opens or closes
    found, is_inside = 0, False
    for start in range(0, len(plain), _PIECE_BYTES):
        between = plain[start : start + _PIECE_BYTES].split(b'"')
        found += sum(map(b"".join(between[is_inside::2]).count, marks))
        is_inside ^= len(between) % 2 == 0
    return found


def _require_shallow(value: Any) -> None:
    level, depth = [value], 1  # the body itself is the first
    while level := [part for part in level if isinstance(part, list | dict)]:
        depth += 1
        if depth > MAX_JSON_DEPTH:
            raise _too_deep()
        level = [child for part in level for child in (part.values() if isinstance(part, dict) else part)]
