"""Single headers of a request. Few are asked for, so no table is made of them all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["header_of"]


def header_of(scope: Mapping[str, Any], name: bytes) -> bytes:
    """The value of the first header of this name, which is in lower case; empty if there is none."""
    return next((value for known, value in scope["headers"] if known == name), b"")
