"""A request as it came in: checked, its sampling fields apart, and when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from histrio.messages import SamplingFields
from histrio_api.request.fields import split_fields, whole_numbers, within_vocabulary
from histrio_api.request.ignored import IgnoredFields
from histrio_api.request.json_body import decode_object
from histrio_api.request.known_fields import UNREAD
from histrio_api.request.words import with_word_ids
from histrio_api.schemas.generation import GenerationRequest
from histrio_api.shared.edge import Edge

__all__ = ["Arrival", "Received", "receive"]

R = TypeVar("R", bound=GenerationRequest)
R_co = TypeVar("R_co", bound=GenerationRequest, covariant=True)

MAX_USER_CHARS = 256
"""Of `user`; what is beyond is cut off."""


class Arrival(NamedTuple):
    """What is known of a request besides its body."""

    at_s: float
    """On the clock of `time.perf_counter`."""
    key: str = ""
    """The name of its API key; empty without one."""
    is_strict: bool = False
    """What would be ignored is refused."""


@dataclass(frozen=True, slots=True)
class Received(Generic[R_co]):
    """A checked body."""

    request: R_co
    sampling: SamplingFields
    """Only what the client gave; the model's defaults are not merged yet."""
    arrived_s: float
    """On the clock of `time.perf_counter`."""
    key: str = ""
    """The name of the API key; empty without one."""
    user: str = ""
    """Whom it is for, in the client's words."""
    ignored: IgnoredFields = field(default_factory=IgnoredFields)
    """Grows while prompts are made."""


def receive(edge: Edge, body: bytes, schema: type[R], arrival: Arrival) -> Received[R]:
    """Check a request's body. Safe to run in a thread.

    Raises `RequestError`, and `EngineError` while nothing can be generated.
    """
    settings = edge.settings
    fields = decode_object(body, max_parts=settings.max_json_parts, max_values=settings.max_json_values, labels=UNREAD)
    vocab_size = edge.gateway.model.vocab_size
    given = with_word_ids(schema.own_names(fields), edge.tokenizer, edge.sampling_fields, vocab_size)
    ignored = IgnoredFields(is_strict=arrival.is_strict)
    request, sampling = split_fields(given, schema, edge.sampling_fields, edge.honoured_by, ignored)
    edge.require_model(request.model)
    edge.require_task("generate")
    edge.require_accepting()
    sampling = {name: whole_numbers(each) if name in edge.integers else each for name, each in sampling.items()}
    sampling = within_vocabulary(sampling, vocab_size)
    return Received(request, sampling, arrival.at_s, arrival.key, request.user_name[:MAX_USER_CHARS], ignored)
