"""The contract of reasoning formats: how one family of models writes what it thinks before it answers."""

from __future__ import annotations

from typing import Protocol

import msgspec

from histrio.messages import Reasoning, ReasoningMarks

__all__ = ["ReasoningFormat", "ReasoningParser", "WrittenAnswer"]


class WrittenAnswer(msgspec.Struct, frozen=True):
    """What a chat template writes for a conversation with an answer; a format recognises itself in it."""

    text: str
    source: str
    """The template itself."""
    answer: str
    """What the answer says."""


class ReasoningParser(Protocol):
    """Reads one answer. What comes out, put together, does not depend on how the answer was cut into pieces."""

    def push(self, text: str) -> tuple[str, str]:
        """Take more text; return what is sure to be reasoning, and what is answer."""

    def flush(self) -> tuple[str, str]:
        """The text ended: what was held back."""


class ReasoningFormat(Protocol):
    """A plugin registers it. It is cheap to import, holds no state, and works for many answers at a time."""

    @property
    def name(self) -> str:
        """What `reasoning-parser` in `[api]` says."""

    @property
    def marks(self) -> ReasoningMarks | None:
        """Between which texts the reasoning stands; None if it has another form. Then no prompt opens it, every answer
        may have it, and a grammar binds the answer from its first token."""

    @property
    def hidden_marks(self) -> tuple[str, ...]:
        """Texts by which reasoning is told apart. If one is a special token of the model, answers are decoded with
        their special tokens."""

    def recognises(self, written: WrittenAnswer) -> bool:
        """Whether the model of this chat template writes so. The first format that says so is taken."""

    def parser(self, reasoning: Reasoning, has_tools: bool) -> ReasoningParser:
        """A parser for one answer. With `has_tools` the calls of tools are part of the answer, as its tool format wants
        them."""
