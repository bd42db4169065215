"""The JSON of one tool call while it is written: where it ends, and whether it can still become one.

The governing idea: a closing tag ends a call unless it stands in a string, and whether it does is only known as long as
quotation marks stand where JSON has them. So each character is looked at once, and the first one that JSON would not
have there ends the reading. Whether the whole is a call is asked of a real parser, later.
"""

from __future__ import annotations

import re

__all__ = ["CALL_CLOSE", "CALL_OPEN", "CallBody"]

CALL_OPEN = "<tool_call>"
CALL_CLOSE = "</tool_call>"

_BLANKS = " \t\r\n"
_BETWEEN_STRINGS = re.compile(r"[ \t\r\n{}\[\]:,0-9+\-.eEtrufalsn]*")
_IN_STRING = re.compile(r'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_BEFORE_STRING = "{[:,"
_BEHIND_STRING = ",:}]"


class CallBody:
    """What follows an opening tag."""

    __slots__ = ("_is_string", "_last", "_parts", "_tail", "is_broken")

    def __init__(self) -> None:
        self.is_broken = False
        """No JSON object begins like this."""
        self._parts: list[str] = []
        self._tail = ""
        """Held back: half an escape in a string, or half a closing tag."""
        self._is_string = False
        self._last = ""
        """The last character between strings that is no blank; a quotation mark for a string."""

    @property
    def pieces(self) -> list[str]:
        """All that was taken, but for the closing tag and what follows it."""
        return [*self._parts, self._tail]

    @property
    def text(self) -> str:
        """The same as one text."""
        return "".join(self.pieces)

    def push(self, text: str) -> str | None:
        """Take more; return what follows the closing tag, once that is there. Takes nothing more then, or if broken."""
        text, self._tail = self._tail + text, ""
        at = 0
        while at < len(text):
            at = self._read_string(text, at) if self._is_string else self._read_between(text, at)
            if self.is_broken:
                break
            if text.startswith(CALL_CLOSE, at) and not self._is_string:
                self._parts.append(text[:at])
                return text[at + len(CALL_CLOSE) :]
            if self._must_wait(text, at):
                self._parts.append(text[:at])
                self._tail = text[at:]
                return None

        self._parts.append(text)
        return None

    def _read_string(self, text: str, at: int) -> int:
        """Go to behind the closing quotation mark, or to what has to wait."""
        found = _IN_STRING.match(text, at)
        assert found is not None, "it matches nothing, too"
        at = found.end()
        if text.startswith('"', at):
            self._is_string, self._last = False, '"'
            return at + 1
        return at

    def _read_between(self, text: str, at: int) -> int:
        """Go to behind the next opening quotation mark, or to a tag."""
        found = _BETWEEN_STRINGS.match(text, at)
        assert found is not None, "it matches nothing, too"
        signs = found[0].strip(_BLANKS)
        if signs:
            allowed = {"": "{", '"': _BEHIND_STRING}.get(self._last)
            self.is_broken = allowed is not None and signs[0] not in allowed
            self._last = signs[-1]
        at = found.end()
        if text.startswith('"', at):
            self.is_broken |= not self._last or self._last not in _BEFORE_STRING
            self._is_string = True
            return at + 1

        self.is_broken |= at < len(text) and not _may_close(text, at)
        return at

    def _must_wait(self, text: str, at: int) -> bool:
        """Whether the rest is not understood before more has come."""
        if self._is_string:
            return at == len(text) - 1 and text[at] == "\\"
        return at < len(text) and CALL_CLOSE.startswith(text[at:])


def _may_close(text: str, at: int) -> bool:
    return text.startswith(CALL_CLOSE, at) or CALL_CLOSE.startswith(text[at:])
