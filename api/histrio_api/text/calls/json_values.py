"""JSON in an answer, passed on while it is written: where a value ends, and where it stops being JSON.

The governing idea: the end of a call counts as such unless it stands in a string, and whether it does is only known as
long as quotation marks stand where JSON has them. So a mark within a string is held back until the string has ended as
JSON wants it; if it does not, the call ended at the mark.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from histrio_api.text.calls.scanner import Reading, Scanner
from histrio_api.text.stops import Wanted

__all__ = ["MAX_NAME_CHARS", "decoded", "read_name", "read_value"]

MAX_NAME_CHARS = 256
"""Of a tool's name, and of a key beside it; what is longer is no call."""

_BETWEEN_STRINGS = re.compile(r"[ \t\r\n{}\[\]:,0-9+\-.eEtrufalsn]*")
_IN_STRING = re.compile(r'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_BRACKET = re.compile(r"[{}\[\]]")
_SCALAR = re.compile(r"[0-9+\-.eEtrufalsn]*")
_NAME = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BEFORE_STRING = "{[:,"
_BEHIND_STRING = ",:}]"


def read_value(scanner: Scanner, use: Callable[[str], None], ends: Wanted) -> Reading[bool]:
    """Give one JSON value to `use`, in pieces, to the letter; false if it is broken or does not end.

    What is broken is used up to the first of the `ends`, or up to the answer's end, and reading is there then.
    """
    return (yield from _Value(scanner, use, ends).read())


def read_name(scanner: Scanner) -> Reading[str | None]:
    """A short JSON string; None if none comes next, and then nothing was read."""
    while True:
        found = _NAME.match(scanner.text, scanner.at)
        if found is not None:
            name = decoded(found[0]) if len(found[0]) <= MAX_NAME_CHARS + 2 else None
            scanner.at = found.end() if name is not None else scanner.at
            return name if isinstance(name, str) else None
        is_begun = scanner.text[scanner.at : scanner.at + 1] in ("", '"')
        is_long = len(scanner.text) - scanner.at > MAX_NAME_CHARS + 2
        if not is_begun or is_long or not (yield from scanner.more()):
            return None


def decoded(text: str) -> object:
    """The value of a JSON text; None if it is not one."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


class _Value:
    """One value while it is read."""

    def __init__(self, scanner: Scanner, use: Callable[[str], None], ends: Wanted) -> None:
        self._scanner = scanner
        self._use = use
        self._ends = ends
        self._used = scanner.place
        """Text before this place was given to `use`."""
        self._mark: int | None = None
        """Where the first of the ends stands in the string that is read."""
        self._last = ""
        """The last character between strings that is no blank; a quotation mark for a string."""
        self._depth = 0

    def read(self) -> Reading[bool]:
        scanner = self._scanner
        while True:
            if scanner.at == len(scanner.text):
                if not (yield from self._wait()):
                    return (yield from self._break())
                continue
            if scanner.text[scanner.at] == '"':
                is_going_on = self._last in ("", *_BEFORE_STRING) and (yield from self._string())
            elif self._last or scanner.text[scanner.at] in "{[":
                is_going_on = self._between()
            else:
                word = yield from scanner.word(_SCALAR, MAX_NAME_CHARS)
                self._pass_on()
                return bool(word)
            if self._last and not self._depth and is_going_on:
                self._mark = None
                self._pass_on()
                return True
            if not is_going_on:
                return (yield from self._break())

    def _between(self) -> bool:
        """Go to the next string, or to the value's end; false for what JSON would not have here."""
        scanner = self._scanner
        found = _BETWEEN_STRINGS.match(scanner.text, scanner.at)
        assert found is not None, "it matches nothing, too"
        signs = found[0].strip()
        if signs:
            if self._last == '"' and signs[0] not in _BEHIND_STRING:
                return False
            self._mark = None
            self._last = signs[-1]
        for bracket in _BRACKET.finditer(found[0]):
            self._depth += 1 if bracket[0] in "{[" else -1
            if not self._depth:
                scanner.at += bracket.end()
                return True
        scanner.at = found.end()
        return scanner.at == len(scanner.text) or scanner.text[scanner.at] == '"'

    def _string(self) -> Reading[bool]:
        """Go to behind the closing quotation mark; false if the answer ends before it."""
        scanner = self._scanner
        scanner.at += 1
        while True:
            found = _IN_STRING.match(scanner.text, scanner.at)
            assert found is not None, "it matches nothing, too"
            self._look_for_end(found.end())
            scanner.at = found.end()
            if scanner.text.startswith('"', scanner.at):
                scanner.at += 1
                self._last = '"'
                return True
            if not (yield from self._wait(is_in_string=True)):
                return False

    def _look_for_end(self, end: int) -> None:
        """Among the characters that have not been passed on, up to `end` of the text."""
        if self._mark is None:
            start = self._used - self._scanner.place + self._scanner.at
            text = self._scanner.text
            places = [at for each in self._ends.strings if (at := text.find(each, max(start, 0), end)) >= 0]
            if places:
                self._mark = self._scanner.place - self._scanner.at + min(places)

    def _wait(self, *, is_in_string: bool = False) -> Reading[bool]:
        """Pass on what is sure, and wait for more."""
        self._pass_on(is_in_string=is_in_string)
        scanner = self._scanner
        is_kept = scanner.kept_from is not None
        if not is_kept:
            scanner.kept_from = min(self._used, scanner.place)
        is_more = yield from scanner.more()
        if not is_kept:
            scanner.kept_from = None
        return is_more

    def _pass_on(self, *, is_in_string: bool = False) -> None:
        scanner = self._scanner
        end = scanner.place
        if self._mark is not None:
            end = self._mark
        elif is_in_string and not scanner.is_over:
            # From here on it may become one of the ends.
            held = self._ends.partial_start(scanner.text[: scanner.at], max(0, self._used - end + scanner.at))
            end += held - scanner.at
        if end > self._used:
            self._use(scanner.part(self._used, end))
            self._used = end

    def _break(self) -> Reading[bool]:
        """This is no JSON: the call goes up to the first of its ends, if one was seen in a string up to that one."""
        scanner = self._scanner
        self._pass_on()
        if self._mark is not None:
            scanner.go(self._mark)
            return False
        end = yield from scanner.until(self._ends, self._use)
        scanner.at -= len(end)
        return False
