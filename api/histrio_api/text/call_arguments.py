"""The arguments of a call for the APIs that give them as an object, and not as the text that the model wrote."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["as_object"]


def as_object(written: str) -> dict[str, Any]:
    """Arguments that are no object, which only a call that was not enforced can have, become a field of one."""
    try:
        value = msgspec.json.decode(written)
    except (msgspec.DecodeError, RecursionError):
        value = written
    return value if isinstance(value, dict) else {"arguments": value}
