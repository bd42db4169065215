"""What the values of a schema's keywords may be. Each check raises `RequestError` with the keyword's place."""

from __future__ import annotations

from math import isfinite
from typing import Any

from histrio.errors import RequestError
from histrio_grammars.bounds import LIMITS

__all__ = [
    "FORMATS",
    "check_count",
    "check_format",
    "check_number",
    "check_pattern",
    "check_type",
    "limit",
]

FORMATS = frozenset({"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"}) | {
    f"uuid{version}" for version in range(1, 9)
}
"""Formats of strings that are enforced."""

_TYPES = {"array", "boolean", "integer", "null", "number", "object", "string"}


def limit(what: str, number: int, place: str) -> None:
    if number > LIMITS[what]:
        raise RequestError(f"the schema has more than {LIMITS[what]} {what}", param=place)


def check_type(value: Any, place: str) -> None:
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) and name in _TYPES for name in names):
        raise RequestError(f"type must be one of {', '.join(sorted(_TYPES))}, or a list of them", param=place)


def check_pattern(value: Any, place: str) -> None:
    if not isinstance(value, str):
        raise RequestError("a pattern must be a string", param=place)
    if len(value) > LIMITS["pattern characters"]:
        raise RequestError(f"a pattern has more than {LIMITS['pattern characters']} characters", param=place)


def check_format(value: Any, place: str) -> None:
    """Formats that are unknown, or of numbers (`int32`), only describe."""
    if not isinstance(value, str):
        raise RequestError("format must be a name", param=place)


def check_count(keyword: str, value: Any, place: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise RequestError(f"{keyword} must be an integer of at least 0", param=place)


def check_number(keyword: str, value: Any, place: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise RequestError(f"{keyword} must be a number", param=place)
    if keyword != "multipleOf":
        return

    if not 0 < value <= LIMITS["multipleOf"]:
        raise RequestError(f"multipleOf must be above 0 and at most {LIMITS['multipleOf']}", param=place)
