"""Fields that some clients put into an object of their own."""

from __future__ import annotations

from typing import Any

from histrio.errors import RequestError

__all__ = ["unfolded"]


def unfolded(fields: dict[str, Any], name: str) -> dict[str, Any]:
    """A body's fields, with those of the object `name` beside the others.

    Raises `RequestError` where it is no object, or differs from a field beside it.
    """
    if name not in fields:
        return fields

    inner = fields[name]
    if not (inner is None or isinstance(inner, dict)):
        raise RequestError(f"{name}: must be an object", param=name)
    given = {each: value for each, value in fields.items() if each != name}
    for each, value in (inner or {}).items():
        if given.setdefault(each, value) != value:
            raise RequestError(f"{name}.{each}: differs from {each}; give one of them", param=f"{name}.{each}")
    return given
