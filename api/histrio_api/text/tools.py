"""Tool calls in Hermes format: JSON between `<tool_call>` and `</tool_call>`, anywhere in an answer."""

from __future__ import annotations

import re
from uuid import uuid4

import msgspec

from histrio_api.schemas.chat import CalledFunction, CalledTool
from histrio_api.text.stops import Wanted

__all__ = ["CALL_CLOSE", "CALL_OPEN", "ToolCallParser"]

CALL_OPEN = "<tool_call>"
CALL_CLOSE = "</tool_call>"

_OPENING = Wanted([CALL_OPEN])
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


class ToolCallParser:
    """Separates an answer's text from its tool calls. What is no valid call comes out as text, so nothing is lost."""

    __slots__ = ("_buffer", "_is_inside", "num_calls")

    def __init__(self) -> None:
        self._buffer = ""
        self._is_inside = False
        self.num_calls = 0
        """Calls found so far."""

    def push(self, text: str) -> tuple[str, list[CalledTool]]:
        """Take more of the answer; return the text to show and the calls that are complete by now."""
        self._buffer += text
        shown: list[str] = []
        calls: list[CalledTool] = []
        while self._advance(shown, calls):
            pass
        return "".join(shown), calls

    def flush(self) -> tuple[str, list[CalledTool]]:
        """The answer ended; models often leave the last closing tag out."""
        rest, self._buffer = self._buffer, ""
        if self._is_inside and (call := _parse(rest)) is not None:
            self.num_calls += 1
            return "", [call]

        opening = CALL_OPEN if self._is_inside else ""
        return self._visible(opening + rest), []

    def _advance(self, shown: list[str], calls: list[CalledTool]) -> bool:
        """Consume up to the next tag; False if more text is needed."""
        at = _end_of_call(self._buffer) if self._is_inside else self._buffer.find(CALL_OPEN)
        if at < 0:
            if not self._is_inside:
                cut = _OPENING.partial_start(self._buffer)
                shown.append(self._visible(self._buffer[:cut]))
                self._buffer = self._buffer[cut:]
            return False

        before = self._buffer[:at]
        self._buffer = self._buffer[at + len(CALL_CLOSE if self._is_inside else CALL_OPEN) :]
        if not self._is_inside:
            shown.append(self._visible(before))
        elif (call := _parse(before)) is not None:
            self.num_calls += 1
            calls.append(call)
        else:
            shown.append(CALL_OPEN + before + CALL_CLOSE)
        self._is_inside = not self._is_inside
        return True

    def _visible(self, text: str) -> str:
        """Line breaks that only separate calls are not part of the answer."""
        return "" if self.num_calls and text.isspace() else text


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


def _end_of_call(text: str) -> int:
    """Where the closing tag stands that is no part of a string; -1 if it is not there yet."""
    at = text.find(CALL_CLOSE)
    while at >= 0 and '"' in _STRING.sub("", text[:at]):
        at = text.find(CALL_CLOSE, at + 1)
    return at
