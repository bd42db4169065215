"""The contract of tool formats: how one family of models writes calls of tools into its text.

A format reads calls out of an answer while it comes, says how a grammar has to write a call, and recognises itself in
what a chat template makes of one. The endpoint chooses a format for its model when it starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import msgspec

from histrio.contracts.grammar import TagStructure

__all__ = [
    "CallLayout",
    "CallParser",
    "CallPiece",
    "FormatExample",
    "Found",
    "Schemas",
    "ToolFormat",
    "WrittenCall",
]

Schemas: TypeAlias = Mapping[str, Mapping[str, Any] | None]
"""Name of a tool that may be called → JSON schema of its arguments, None where the request gives none."""


class CallPiece(NamedTuple):
    """A part of a call. A piece with a name begins a call; those without one go on with the call before."""

    name: str = ""
    arguments: str = ""
    """The next characters of the arguments' JSON. All pieces together are what the model wrote, to the letter where it
    writes JSON, even if that is none."""
    id: str = ""
    """What the model itself calls the call, where its family has such names; only with `name`."""


class Found(NamedTuple):
    """What more of an answer turned out to be."""

    parts: list[str | CallPiece]
    """In the order in which they were written; a text is what is no part of a call."""

    @property
    def text(self) -> str:
        """All of it that is no part of a call."""
        return "".join(each for each in self.parts if isinstance(each, str))

    @property
    def calls(self) -> list[CallPiece]:
        """All parts of calls."""
        return [each for each in self.parts if isinstance(each, CallPiece)]


class CallParser(Protocol):
    """Reads one answer. What comes out, put together, does not depend on how the answer was cut into pieces."""

    def push(self, text: str) -> Found:
        """Take more of the answer. What is sure by now comes out at once: the name, then the arguments as they come."""

    def flush(self) -> Found:
        """The answer has ended: what was held back."""


class CallLayout(msgspec.Struct, frozen=True, kw_only=True):
    """How an answer with calls is put together, for the grammar that enforces it."""

    trigger: str = ""
    """A text that only a call contains. The calls, with `before`, begin with it. Empty where there is none: then only
    the name of a tool tells a call from text."""
    before: str = ""
    """Written once, before the first call."""
    separator: str = ""
    """Between two calls."""
    after: str = ""
    """Written once, behind the last call."""
    takes_text_after: bool = False
    """Calls can stand anywhere in a text; then there is neither `before` nor `after`."""


class WrittenCall(msgspec.Struct, frozen=True):
    """What a chat template writes for a conversation with one call; a format recognises itself in it."""

    text: str
    """All that is written behind the user's message; empty where the template writes no call at all."""
    source: str
    """The template itself."""
    name: str
    arguments: Mapping[str, Any]


class FormatExample(msgspec.Struct, frozen=True, kw_only=True):
    """An answer and what has to come out of it. The conformance kit reads it whole and cut at every character."""

    about: str
    """`one call`, `parallel calls`, `text around`, `unicode and quotes`, `broken`; others may follow."""
    answer: str
    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    """Name and arguments. The arguments are compared as JSON, or as texts where they are none."""


class ToolFormat(Protocol):
    """A plugin registers it. It is cheap to import, holds no state, and works for many answers at a time."""

    @property
    def name(self) -> str:
        """What `tool-parser` in `[api]` says."""

    @property
    def marks(self) -> tuple[str, ...]:
        """Texts by which calls are told from text. If one is a special token of the model, answers are decoded with
        their special tokens."""

    @property
    def layout(self) -> CallLayout:
        """How several calls are put together."""

    @property
    def examples(self) -> tuple[FormatExample, ...]:
        """Answers to `add(a: integer, b: integer)` and `say(text: string)`, at least one of each kind."""

    def recognises(self, written: WrittenCall) -> bool:
        """Whether the model of this chat template writes its calls so. The first format that says so is taken."""

    def parser(self, schemas: Schemas) -> CallParser:
        """A parser for one answer of a request with these tools."""

    def structure(self, name: str, schema: Mapping[str, Any]) -> TagStructure:
        """One call as a grammar: fixed texts, and arguments that follow the schema; what they cannot be held to in this
        form is told in `unenforced`. Raises `RequestError` with the place in the schema as `param` if there can be no
        such call."""

    def call_id(self, name: str, position: int) -> str:
        """An id for the call at this position in an answer, unlike all others, of the form that the template takes."""
