"""Chunks of a stream as OpenAI has them, built from byte templates.

Per token only the text itself is encoded; everything else of a chunk is the same for the whole request.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

import msgspec

from histrio.errors import HistrioError
from histrio_api.answer.answer_tokens import PlacedToken
from histrio_api.answer.choice import Choice
from histrio_api.answer.generation import Generation
from histrio_api.error_shapes import openai_error
from histrio_api.request.prepared import Prepared
from histrio_api.schemas.generation import AnsweredChoice
from histrio_api.shared.edge import Edge

__all__ = ["Chunks", "encode", "ids_field", "logprobs_field"]

C = TypeVar("C", bound=AnsweredChoice)

encode = msgspec.json.Encoder().encode


class Chunks(ABC, Generic[C]):
    """What the chunks of one request have in common, and the choices of its whole answer."""

    object_name: str

    def __init__(self, edge: Edge, prepared: Prepared, generation: Generation) -> None:
        self.generation = generation
        self.model = edge.gateway.model.id
        self.fingerprint = edge.fingerprint
        options = prepared.received.request.stream_options
        self._usage_stats = options.usage_stats
        self._tail = b'],"usage":null}\n\n' if self._usage_stats != "none" else b"]}\n\n"

    @cached_property
    def _head(self) -> bytes:
        fields = {
            "id": self.generation.id,
            "object": self.object_name,
            "created": self.generation.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }
        return b"data: " + encode(fields)[:-1] + b',"choices":['

    @cached_property
    def _heads(self) -> list[bytes]:
        """Of each choice; whole answers have none of them."""
        return [self._head + b'{"index":%d,' % at for at in range(len(self.generation.choices))]

    def chunk(self, choice: Choice, content: bytes, finish_reason: bytes = b"null") -> bytes:
        """One chunk of a choice, with `content` in its place."""
        tail = self._tail
        if self._usage_stats == "every":
            tail = b'],"usage":' + encode(self.generation.usage) + b"}\n\n"
        ids = ids_field(b"token_ids", choice.take_ids()) if choice.keeps_ids else b""
        return self._heads[choice.index] + content + b',"finish_reason":' + finish_reason + ids + b"}" + tail

    def choices(self, texts: Sequence[str]) -> list[C]:
        """Those of the whole answer, each with its text."""
        return [self.choice(*each) for each in zip(self.generation.choices, texts, strict=True)]

    @abstractmethod
    def choice(self, choice: Choice, text: str) -> C:
        """One of them, but for what all forms have alike."""

    def opening(self) -> bytes:
        """Nothing."""
        return b""

    def waiting(self, *, is_recovering: bool) -> bytes:
        """A comment."""
        return b": recovering\n\n" if is_recovering else b": ping\n\n"

    def closing(self) -> bytes:
        """The chunk without choices, if the usage is asked for, and the mark of the end."""
        usage = b""
        if self._usage_stats != "none":
            usage = self._head + b'],"usage":' + encode(self.generation.usage) + b"}\n\n"
        return usage + b"data: [DONE]\n\n"

    def failure(self, error: HistrioError) -> bytes:
        """The error's object."""
        return b"data: " + encode(openai_error(error)) + b"\n\n"


def ids_field(name: bytes, ids: Sequence[int]) -> bytes:
    """The field, if there are any."""
    return b',"' + name + b'":' + encode(ids) if ids else b""


def logprobs_field(choice: Choice, form: Callable[[list[PlacedToken]], Any]) -> bytes:
    """`,"logprobs":` with the entries that go out now, for a choice that has any."""
    assert choice.logprobs is not None, "asked of a choice with log probabilities"
    shown = choice.logprobs.take_shown()
    return b',"logprobs":' + (encode(form(shown)) if shown else b"null")
