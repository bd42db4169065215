"""The events of a stream of /v1/responses, numbered; of a piece of text only the text itself is encoded."""

from __future__ import annotations

from typing import Any, assert_never

from histrio_api.answer.chunks import encode
from histrio_api.forms.response_output import Began, Change, Ended, Grew
from histrio_api.schemas.answered_responses import (
    CalledCustomItem,
    CalledFunctionItem,
    MessageItem,
    OutputItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
)

__all__ = ["ResponseEvents"]

_PARTS = {MessageItem: OutputText(), ReasoningItem: ReasoningText()}
_DELTAS = {
    MessageItem: "response.output_text.delta",
    ReasoningItem: "response.reasoning_text.delta",
    CalledFunctionItem: "response.function_call_arguments.delta",
    CalledCustomItem: "response.custom_tool_call_input.delta",
}


class ResponseEvents:
    """Those of one stream, in their order."""

    def __init__(self) -> None:
        self._number = -1
        self._delta_head = b""
        """Of the open item."""

    def event(self, kind: str, **fields: Any) -> bytes:
        """One of them."""
        return _head(kind) + encode(fields)[1:-1] + self._tail()

    def change(self, change: Change) -> bytes:
        """Those that tell of a change."""
        match change:
            case Began(at, item):
                return self._began(at, item)
            case Grew():
                return self._grew(change)
            case Ended(at, item):
                return self._ended(at, item)
            case _:
                assert_never(change)

    def _began(self, at: int, item: OutputItem) -> bytes:
        place = {"item_id": item.id, "output_index": at}
        events = self.event("response.output_item.added", output_index=at, item=item)
        if not isinstance(item, CalledFunctionItem | CalledCustomItem):
            place["content_index"] = 0
            events += self.event("response.content_part.added", **place, part=_PARTS[type(item)])
        self._delta_head = _head(_DELTAS[type(item)]) + encode(place)[1:-1] + b',"delta":'
        return events

    def _grew(self, grown: Grew) -> bytes:
        logprobs = b""
        if isinstance(grown.item, MessageItem):
            logprobs = b',"logprobs":' + (encode(grown.logprobs) if grown.logprobs else b"[]")
        return self._delta_head + encode(grown.text) + logprobs + self._tail()

    def _ended(self, at: int, item: OutputItem) -> bytes:
        place = {"item_id": item.id, "output_index": at}
        if isinstance(item, CalledFunctionItem):
            done = {"name": item.name, "arguments": item.arguments}
            events = self.event("response.function_call_arguments.done", **place, **done)
        elif isinstance(item, CalledCustomItem):
            events = self.event("response.custom_tool_call_input.done", **place, input=item.input)
        else:
            events = self._text_ended(item, place | {"content_index": 0})
        return events + self.event("response.output_item.done", output_index=at, item=item)

    def _text_ended(self, item: MessageItem | ReasoningItem, place: dict[str, Any]) -> bytes:
        part = item.content[0]
        if isinstance(part, OutputText):
            done = self.event("response.output_text.done", **place, text=part.text, logprobs=part.logprobs)
        else:
            done = self.event("response.reasoning_text.done", **place, text=part.text)
        return done + self.event("response.content_part.done", **place, part=part)

    def _tail(self) -> bytes:
        self._number += 1
        return b',"sequence_number":%d}\n\n' % self._number


def _head(kind: str) -> bytes:
    name = kind.encode()
    return b"event: " + name + b'\ndata: {"type":"' + name + b'",'
