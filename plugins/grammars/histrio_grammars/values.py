"""What the values of a schema's keywords may be. Each check raises `RequestError` with the keyword's place."""

from __future__ import annotations

from math import isfinite
from typing import Any

from histrio.errors import RequestError
from histrio_grammars.bounds import LIMITS
from histrio_grammars.expressions import portable

__all__ = [
    "FORMATS",
    "check_count",
    "check_format",
    "check_min_properties",
    "check_number",
    "check_pattern",
    "check_pattern_properties",
    "check_type",
    "limit",
]

FORMATS = frozenset({"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"})
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


def check_pattern_properties(value: dict[str, Any], schema: dict[str, Any], place: str) -> None:
    """Readers that disagree about a name would apply different schemas to it, unless other names are excluded."""
    for expression in value:
        check_pattern(expression, place)
        is_plain = portable(expression, dot=".") == expression
        if not is_plain and (schema.get("additionalProperties") is not False or len(value) > 1):
            text = (
                "the keyword patternProperties can be enforced without \\d, \\w, \\s and their opposites only, unless "
            )
            raise RequestError(
                f"{text}additionalProperties is false and there is one pattern", param=place, code="unsupported_keyword"
            )


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
    # Decimal fractions are not what binary numbers make of them: 0.07 is no multiple of 0.01 to most readers of JSON.
    if (value * 1024) % 1:
        raise RequestError(
            "the keyword multipleOf can be enforced for whole numbers and binary fractions (0.5, 0.25 …) only",
            param=place,
            code="unsupported_keyword",
        )


def check_min_properties(value: int, schema: dict[str, Any], place: str) -> None:
    """A grammar counts a name that comes twice as two properties, a reader of JSON as one."""
    has_own_names_only = schema.get("additionalProperties") is False and not schema.get("patternProperties")
    if value > len(set(schema.get("required", []))) and not has_own_names_only:
        raise RequestError(
            "the keyword minProperties can be enforced with additionalProperties: false only",
            param=place,
            code="unsupported_keyword",
        )
