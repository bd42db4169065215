"""Fields that an endpoint shares with chats by its schema, and does not have."""

from __future__ import annotations

from collections.abc import Mapping

from histrio.errors import RequestError
from histrio_api.schemas.generation import GenerationRequest

__all__ = ["require_absent"]


def require_absent(request: GenerationRequest, absent: Mapping[str, object], url: str) -> None:
    """Raise `RequestError` for a field that is given; `absent` has what each one is where it is not."""
    for name, value in absent.items():
        if getattr(request, name) != value:
            text = f"{name} is not supported by {url}; leave it out"
            raise RequestError(text, param=name, code="unsupported_parameter")
