"""A request as it came in: checked, its sampling fields apart, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from histrio.messages import SamplingFields
from histrio_api.request.fields import NO_EFFECT, split_fields, within_vocabulary
from histrio_api.request.json_body import decode_object
from histrio_api.request.words import with_word_ids
from histrio_api.schemas.generation import GenerationRequest
from histrio_api.shared.edge import Edge

__all__ = ["Received", "receive"]

R = TypeVar("R", bound=GenerationRequest)
R_co = TypeVar("R_co", bound=GenerationRequest, covariant=True)

MAX_USER_CHARS = 256
"""Of `user`; what is beyond is cut off."""


@dataclass(frozen=True, slots=True)
class Received(Generic[R_co]):
    """A checked body."""

    request: R_co
    sampling: SamplingFields
    """Only what the client gave; the model's defaults are not merged yet."""
    arrived_s: float
    """On the clock of `time.perf_counter`."""
    key: str = ""
    """The label of the API key; empty without one."""
    user: str = ""
    """Whom it is for, in the client's words."""


def receive(edge: Edge, body: bytes, schema: type[R], arrived_s: float, key: str = "") -> Received[R]:
    """Check a request's body; `key` is the label of its API key. Safe to run in a thread.

    Raises `RequestError`, and `EngineError` while nothing can be generated.
    """
    settings = edge.settings
    fields = decode_object(
        body, max_parts=settings.max_json_parts, max_values=settings.max_json_values, labels=NO_EFFECT
    )
    vocab_size = edge.gateway.model.vocab_size
    given = with_word_ids(fields, edge.tokenizer, edge.sampling_fields, vocab_size)
    request, sampling = split_fields(given, schema, edge.sampling_fields, edge.honoured_by)
    edge.require_model(request.model)
    edge.require_accepting()
    return Received(request, within_vocabulary(sampling, vocab_size), arrived_s, key, _user(given))


def _user(given: dict[str, Any]) -> str:
    """The field `user`, or its successor; what is no text is left out."""
    named = given.get("safety_identifier") or given.get("user")
    return named[:MAX_USER_CHARS] if isinstance(named, str) else ""
