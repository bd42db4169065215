"""What a generating endpoint consists of, beside its URL: the rest of the way of a request knows no endpoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from histrio.errors import HistrioError
from histrio_api.answer.choice import Choice
from histrio_api.answer.generation import Generation
from histrio_api.request.prepared import Prepared
from histrio_api.request.received import Received
from histrio_api.schemas.generation import GenerationRequest
from histrio_api.shared.edge import Edge

__all__ = ["Answer", "Form", "WholeAnswer"]

R = TypeVar("R", bound=GenerationRequest)


class Answer(Protocol):
    """How the answer to one request is written: as the events of a stream, or whole."""

    def opening(self) -> bytes:
        """What a stream begins with."""

    def piece(self, choice: Choice, text: str) -> bytes:
        """The next piece of a choice's text as events, if it makes any; with the last, `finish_reason` is set."""

    def waiting(self, *, is_recovering: bool) -> bytes:
        """What a stream carries while there is nothing to write, so that proxies keep it open, if it has such a thing;
        `is_recovering` while a failed process is being replaced."""

    def closing(self) -> bytes:
        """What a stream ends with, once every choice has."""

    def failure(self, error: HistrioError) -> bytes:
        """An error in the middle of a stream; nothing follows it."""

    def whole(self, texts: Sequence[str]) -> Any:
        """The whole answer, to be written as JSON, from the texts of its choices. Safe to run in a thread."""


class WholeAnswer(ABC):
    """An answer of which there is no stream: its form refuses `stream`."""

    def opening(self) -> bytes:
        """Nothing."""
        return b""

    def piece(self, choice: Choice, text: str) -> bytes:
        """Nothing."""
        return b""

    def waiting(self, *, is_recovering: bool) -> bytes:
        """Nothing."""
        return b""

    def closing(self) -> bytes:
        """Nothing."""
        return b""

    def failure(self, error: HistrioError) -> bytes:
        """Nothing."""
        return b""

    @abstractmethod
    def whole(self, texts: Sequence[str]) -> Any:
        """As every answer."""


def _none_named(edge: Edge, key: str, body: bytes) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Form(Generic[R]):
    """One endpoint."""

    schema: type[R]
    """Of its requests."""
    id_prefix: str
    """Ids of its answers begin with it."""
    prepare: Callable[[Edge, Received[R]], Prepared]
    """From a checked request to prompts, and what is wanted of them. Safe to run in a thread; raises `RequestError`."""
    answer: Callable[[Edge, Prepared, Generation], Answer]
    """Made once for each request, when it was submitted."""
    media_type: str = "text/event-stream"
    """Of its streams."""
    absent: Mapping[str, object] = field(default_factory=dict)
    """Fields of its schema that it refuses, with what each one is where it is not given."""
    num_named_bytes: Callable[[Edge, str, bytes], int] = _none_named
    """How much longer than the body a prompt is, because the body names what is kept here for its API key."""
