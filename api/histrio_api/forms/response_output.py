"""The items of an answer, and how they come about: whole answers and streams are made by the same hand."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, TypeAlias
from uuid import uuid4

from histrio.contracts.tool_format import CallPiece
from histrio_api.schemas.answered_responses import (
    CalledCustomItem,
    CalledFunctionItem,
    ItemStatus,
    MessageItem,
    OutputItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
)
from histrio_api.schemas.logprobs import TokenLogprob
from histrio_api.text.answers import Parts
from histrio_api.text.call_arguments import as_input

__all__ = ["Began", "Change", "Ended", "Grew", "ResponseOutput"]


class Began(NamedTuple):
    """An item has begun; nothing is in it yet."""

    at: int
    item: OutputItem


class Grew(NamedTuple):
    """There is more of an item."""

    at: int
    item: OutputItem
    text: str
    logprobs: Sequence[TokenLogprob] = ()


class Ended(NamedTuple):
    """An item is complete."""

    at: int
    item: OutputItem


Change: TypeAlias = Began | Grew | Ended


class ResponseOutput:
    """Items, of which one at most is open, and then it is the last. A change counts once it was taken."""

    def __init__(self, custom_names: Collection[str] = ()) -> None:
        """Tools of these names take a text instead of arguments."""
        self._custom_names = custom_names
        self.items: list[OutputItem] = []
        self._open: OutputItem | None = None
        self._pieces: list[str] = []
        """The text of the open item."""
        self._blanks = ""
        """What a message would begin with; dropped if a call comes instead."""
        self._logprobs: list[TokenLogprob] = []
        self._num_shown_logprobs = 0

    def take(self, parts: Parts, logprobs: list[TokenLogprob] | None = None) -> Iterator[Change]:
        """More of the answer; its log probabilities go out with the next text."""
        self._logprobs += logprobs or ()
        if parts.rest_of_call:
            yield from self._grow(parts.rest_of_call)
        if parts.reasoning:
            yield from self._more(ReasoningItem, parts.reasoning)
        for each in parts.begun:
            yield from self._say(each) if isinstance(each, str) else self._call(each)

    def end(self, status: ItemStatus) -> Iterator[Change]:
        """The answer has ended. One that was not cut off and calls nothing has a message, empty or not."""
        has_said = any(not isinstance(item, ReasoningItem) for item in self.items)
        if self._blanks or not (has_said or status == "incomplete"):
            yield from self._more(MessageItem, self._blanks)
        yield from self._close(status)

    def _say(self, text: str) -> Iterator[Change]:
        text, self._blanks = self._blanks + text, ""
        if isinstance(self._open, MessageItem) or not text.isspace():
            yield from self._more(MessageItem, text)
        else:
            self._blanks = text

    def _call(self, piece: CallPiece) -> Iterator[Change]:
        self._blanks = ""
        if piece.name in self._custom_names:
            yield from self._begin(CalledCustomItem(_new_id("ctc"), piece.id, piece.name))
        else:
            yield from self._begin(CalledFunctionItem(_new_id("fc"), piece.id, piece.name))
        yield from self._grow(piece.arguments)

    def _more(self, kind: type[ReasoningItem | MessageItem], text: str) -> Iterator[Change]:
        if not isinstance(self._open, kind):
            yield from self._begin(kind(_new_id("rs" if kind is ReasoningItem else "msg")))
        yield from self._grow(text)

    def _begin(self, item: OutputItem) -> Iterator[Change]:
        yield from self._close("completed")
        self._open = item
        self.items.append(item)
        yield Began(self._last, item)

    def _grow(self, text: str) -> Iterator[Change]:
        assert self._open is not None, "what grows has begun"
        if not text:
            return
        self._pieces.append(text)
        # The text that a custom tool is given is known once the arguments around it have ended.
        if not isinstance(self._open, CalledCustomItem):
            logprobs = self._unshown_logprobs() if isinstance(self._open, MessageItem) else ()
            yield Grew(self._last, self._open, text, logprobs)

    def _close(self, status: ItemStatus) -> Iterator[Change]:
        item, self._open = self._open, None
        if item is None:
            return

        text = "".join(self._pieces)
        self._pieces.clear()
        match item:
            case MessageItem():
                item.content = [OutputText(text, logprobs=self._logprobs)]
                self._logprobs, self._num_shown_logprobs = [], 0
            case ReasoningItem():
                item.content = [ReasoningText(text)]
            case CalledFunctionItem():
                item.arguments = text
            case CalledCustomItem():
                item.input = as_input(text)
                if item.input:
                    yield Grew(self._last, item, item.input)
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
