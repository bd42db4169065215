"""Tool calls in Hermes format: JSON between `<tool_call>` and `</tool_call>`, anywhere in an answer."""

from __future__ import annotations

from collections import deque
from uuid import uuid4

import msgspec

from histrio_api.schemas.chat import CalledFunction, CalledTool
from histrio_api.text.call_body import CALL_CLOSE, CALL_OPEN, CallBody
from histrio_api.text.stops import Wanted

__all__ = ["CALL_CLOSE", "CALL_OPEN", "ToolCallParser"]


_OPENING = Wanted([CALL_OPEN])
_PIECE_CHARS = 256


class ToolCallParser:
    """Separates an answer's text from its tool calls. What is no valid call comes out as text, so nothing is lost."""

    __slots__ = ("_blanks", "_body", "_held", "_is_behind_call", "_pending", "num_calls")

    def __init__(self) -> None:
        self._pending: deque[str] = deque()
        """What was not looked at yet, in short pieces: going back to an earlier place copies little."""
        self._held = ""
        """What may become an opening tag."""
        self._body: CallBody | None = None
        """Of the call that is being read."""
        self._is_behind_call = False
        self._blanks: list[str] = []
        """What followed a call, as long as it may only separate it from the next one."""
        self.num_calls = 0
        """Calls found so far."""

    def push(self, text: str) -> tuple[str, list[CalledTool]]:
        """Take more of the answer; return the text to show and the calls that are complete by now."""
        self._pending.extend(text[at : at + _PIECE_CHARS] for at in range(0, len(text), _PIECE_CHARS))
        return self._read()

    def flush(self) -> tuple[str, list[CalledTool]]:
        """The answer ended; models often leave the last closing tag out."""
        shown: list[str] = []
        calls: list[CalledTool] = []
        while self._body is not None:
            if (call := _parse(self._body.text)) is not None:
                calls.append(self._found(call))
                break
            shown.append(self._give_up())
            more, others = self._read()
            shown.append(more)
            calls += others
        rest, self._held = self._held, ""
        return "".join(shown) + self._visible(rest), calls

    def _read(self) -> tuple[str, list[CalledTool]]:
        shown: list[str] = []
        calls: list[CalledTool] = []
        while self._pending:
            piece = self._pending.popleft()
            if self._body is None:
                shown.append(self._read_text(piece))
            elif (rest := self._body.push(piece)) is not None:
                call = _parse(self._body.text)
                if call is None:
                    shown.append(self._give_up(CALL_CLOSE, rest))
                else:
                    calls.append(self._found(call))
                    self._pending.appendleft(rest)
            elif self._body.is_broken:
                shown.append(self._give_up())
        return "".join(shown), calls

    def _read_text(self, piece: str) -> str:
        text = self._held + piece
        before, opening, rest = text.partition(CALL_OPEN)
        if opening:
            self._body, self._held = CallBody(), ""
            self._pending.appendleft(rest)
            return self._visible(before)

        cut = _OPENING.partial_start(text)
        self._held = text[cut:]
        return self._visible(text[:cut])

    def _found(self, call: CalledTool) -> CalledTool:
        self._body = None
        self._is_behind_call = True
        self._blanks.clear()
        self.num_calls += 1
        return call

    def _give_up(self, *rest: str) -> str:
        """What was read as a call is text, in which others may be; `rest` followed it. Returns what is sure to be."""
        assert self._body is not None
        self._pending.extendleft(reversed((*self._body.pieces, *rest)))
        self._body = None
        return self._visible(CALL_OPEN)

    def _visible(self, text: str) -> str:
        """Blanks that only separate calls, or a call from the answer's end, are not part of the answer."""
        if not self._is_behind_call:
            return text
        if not text or text.isspace():
            self._blanks.append(text)
            return ""

        text = "".join([*self._blanks, text])
        self._is_behind_call = False
        self._blanks.clear()
        return text


class _Call(msgspec.Struct):
    """A call as the model wrote it; its arguments are passed on to the letter."""

    name: str
    arguments: msgspec.Raw = msgspec.Raw(b"{}")


def _parse(text: str) -> CalledTool | None:
    try:
        call = msgspec.json.decode(text.strip(), type=_Call)
        arguments = bytes(call.arguments)
        written: str = msgspec.json.decode(arguments) if arguments.startswith(b'"') else arguments.decode()
    except (msgspec.DecodeError, RecursionError):
        return None

    return CalledTool(f"call_{uuid4().hex[:24]}", CalledFunction(call.name, written))
