"""A request in another form as the chat that it means."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar, cast

from histrio_api.request.received import Received
from histrio_api.schemas.chat import ChatRequest
from histrio_api.schemas.generation import GenerationRequest

__all__ = ["as_chat"]

R = TypeVar("R", bound=GenerationRequest)


def as_chat(received: Received[R], fields: dict[str, Any]) -> Received[ChatRequest]:
    """The same request with `fields` as fields of the chat; those that all forms have are kept unless given anew."""
    common = {name: getattr(received.request, name) for name in GenerationRequest.__struct_fields__}
    chat = ChatRequest(**common | fields)
    return replace(cast("Received[Any]", received), request=chat)
