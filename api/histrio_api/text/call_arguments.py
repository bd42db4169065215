"""The arguments of a call for the APIs that give them as an object, and not as the text that the model wrote."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from histrio_api.schemas.custom_tools import INPUT

__all__ = ["as_input", "as_object"]

_BEGUN_INPUT = re.compile(rf'\s*\{{\s*"{INPUT}"\s*:\s*("(?:[^"\\]|\\u[0-9a-fA-F]{{4}}|\\[^u])*)')
"""Arguments that were cut off within their text."""


def as_object(written: str) -> dict[str, Any]:
    """Arguments that are no object, which only a call that was not enforced can have, become a field of one."""
    try:
        value = msgspec.json.decode(written)
    except (msgspec.DecodeError, RecursionError):
        value = written
    return value if isinstance(value, dict) else {"arguments": value}


def as_input(written: str) -> str:
    """The text that a custom tool is given, also of a call that was cut off. What is neither is given as it is."""
    try:
        value = msgspec.json.decode(written)
    except (msgspec.DecodeError, RecursionError):
        begun = _BEGUN_INPUT.match(written)
        return written if begun is None else _begun_text(begun[1])
    text = value.get(INPUT) if isinstance(value, dict) else None
    return text if isinstance(text, str) else written


def _begun_text(literal: str) -> str:
    text: str = json.loads(f'{literal}"', strict=False)
    # Half of a character that is escaped in two parts is no text.
    return text.encode(errors="ignore").decode()
