"""The items of an answer, and how they come about: whole answers and streams are made by the same hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias
from uuid import uuid4

from histrio_api.schemas.answered_responses import (
    CalledFunctionItem,
    ItemStatus,
    MessageItem,
    OutputItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
)
from histrio_api.schemas.chat import CalledTool
from histrio_api.schemas.logprobs import TokenLogprob
from histrio_api.text.answers import Parts

__all__ = ["Began", "Change", "Ended", "Grew", "ResponseOutput"]

_Talk: TypeAlias = ReasoningItem | MessageItem


@dataclass(frozen=True, slots=True)
class Began:
    """An item has begun; nothing is in it yet."""

    at: int
    item: OutputItem


@dataclass(frozen=True, slots=True)
class Grew:
    """There is more of an item."""

    at: int
    item: OutputItem
    text: str
    logprobs: list[TokenLogprob] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Ended:
    """An item is complete."""

    at: int
    item: OutputItem


Change: TypeAlias = Began | Grew | Ended


class ResponseOutput:
    """Items, of which one at most is open, and then it is the last. A change counts once it was taken."""

    def __init__(self) -> None:
        self.items: list[OutputItem] = []
        self._open: _Talk | None = None
        self._pieces: list[str] = []
        """The text of the open item."""
        self._blanks = ""
        """What a message would begin with; dropped if a call comes instead."""
        self._logprobs: list[TokenLogprob] = []
        self._num_shown_logprobs = 0

    def take(self, parts: Parts, logprobs: list[TokenLogprob] | None = None) -> Iterator[Change]:
        """More of the answer; its log probabilities go out with the next text."""
        self._logprobs += logprobs or ()
        if parts.reasoning:
            yield from self._more("reasoning", parts.reasoning)
        if parts.text:
            text, self._blanks = self._blanks + parts.text, ""
            if isinstance(self._open, MessageItem) or not text.isspace():
                yield from self._more("message", text)
            else:
                self._blanks = text
        for call in parts.calls:
            self._blanks = ""
            yield from self._called(call)

    def end(self, status: ItemStatus) -> Iterator[Change]:
        """The answer has ended. One that was not cut off and calls nothing has a message, empty or not."""
        has_said = any(not isinstance(item, ReasoningItem) for item in self.items)
        if self._blanks or not (has_said or status == "incomplete"):
            yield from self._more("message", self._blanks)
        yield from self._close(status)

    def _more(self, kind: Literal["reasoning", "message"], text: str) -> Iterator[Change]:
        item = self._open
        if item is None or isinstance(item, ReasoningItem) != (kind == "reasoning"):
            yield from self._close("completed")
            item = ReasoningItem(_new_id("rs")) if kind == "reasoning" else MessageItem(_new_id("msg"))
            self._open = item
            yield self._begin(item)
        if text:
            self._pieces.append(text)
            yield Grew(self._last, item, text, self._unshown_logprobs() if kind == "message" else [])

    def _called(self, call: CalledTool) -> Iterator[Change]:
        yield from self._close("completed")
        item = CalledFunctionItem(_new_id("fc"), call.id, call.function.name)
        yield self._begin(item)
        yield Grew(self._last, item, call.function.arguments)
        item.arguments, item.status = call.function.arguments, "completed"
        yield Ended(self._last, item)

    def _begin(self, item: OutputItem) -> Began:
        self.items.append(item)
        return Began(self._last, item)

    def _close(self, status: ItemStatus) -> Iterator[Change]:
        item, self._open = self._open, None
        if item is None:
            return

        text = "".join(self._pieces)
        self._pieces.clear()
        if isinstance(item, MessageItem):
            item.content = [OutputText(text, logprobs=self._logprobs)]
            self._logprobs, self._num_shown_logprobs = [], 0
        else:
            item.content = [ReasoningText(text)]
        item.status = status
        yield Ended(self._last, item)

    def _unshown_logprobs(self) -> list[TokenLogprob]:
        unshown = self._logprobs[self._num_shown_logprobs :]
        self._num_shown_logprobs = len(self._logprobs)
        return unshown

    @property
    def _last(self) -> int:
        return len(self.items) - 1


def _new_id(beginning: str) -> str:
    return f"{beginning}_{uuid4().hex}"
