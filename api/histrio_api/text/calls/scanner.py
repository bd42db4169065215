"""A text that comes in pieces, read by a generator: the generator waits wherever it has to see more.

The governing idea: the code of a parser reads as if the whole answer were there, and asks `more` where a decision needs
further characters. So what it finds cannot depend on where the answer was cut.

    shown already | <tool_call>{"name": | not read yet
        kept_from ^               place ^
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import TypeAlias, TypeVar

from histrio.contracts.tool_format import CallPiece, Found
from histrio_api.text.stops import Wanted

__all__ = ["Reading", "Scanner", "ScanningParser"]

T = TypeVar("T")
Reading: TypeAlias = Generator[None, None, T]
"""A part of a parser; it yields where more text is needed."""

_BLANKS = re.compile(r"\s*")


class Scanner:
    """The answer so far, where reading is, and what was found. Places are counted from the answer's beginning."""

    __slots__ = ("_blanks", "_found", "_is_behind_call", "_num_dropped", "at", "is_over", "kept_from", "text")

    def __init__(self) -> None:
        self.text = ""
        """The answer from the first character that may still be needed."""
        self.at = 0
        """What is before this character of `text` was read."""
        self.is_over = False
        """No more text comes."""
        self.kept_from: int | None = None
        """The text from this place on is kept although it was read."""
        self._num_dropped = 0
        self._found: list[str | CallPiece] = []
        self._is_behind_call = False
        self._blanks: list[str] = []
        """Blanks behind a call; they are shown if text follows them."""

    @property
    def place(self) -> int:
        """Where reading is."""
        return self._num_dropped + self.at

    def go(self, place: int) -> None:
        """Read on from there; the text has been kept."""
        self.at = place - self._num_dropped
        assert 0 <= self.at <= len(self.text), "this part of the text was dropped"

    def part(self, start: int, end: int) -> str:
        """The text between two places that is kept."""
        return self.text[start - self._num_dropped : end - self._num_dropped]

    def add(self, text: str) -> None:
        """The next piece of the answer."""
        num_read = self.at if self.kept_from is None else self.kept_from - self._num_dropped
        self.text = self.text[num_read:] + text
        self.at -= num_read
        self._num_dropped += num_read

    def take(self) -> Found:
        """What was found since the last time."""
        found, self._found = Found(self._found), []
        return found

    def show(self, text: str) -> None:
        """This is text of the answer. Blanks that only separate calls are not."""
        if not text:
            return
        if self._is_behind_call and text.isspace():
            self._blanks.append(text)
            return
        self._found += [*self._blanks, text]
        self._blanks.clear()
        self._is_behind_call = False

    def begin_trial(self, length: int) -> None:
        """The last so many characters may begin a call."""
        self.kept_from = self.place - length

    def begin_call(self, name: str, call_id: str = "") -> None:
        """It is a call: nothing that was read can become text any more."""
        self._found.append(CallPiece(name, id=call_id))
        self.kept_from = None
        self._is_behind_call = True
        self._blanks.clear()

    def argue(self, text: str) -> None:
        """More of the arguments of the last call."""
        if text:
            self._found.append(CallPiece(arguments=text))

    def give_up(self, length: int) -> None:
        """What was tried is no call, unless it has become one: its first characters are text, the rest is read anew."""
        if self.kept_from is not None:
            self.go(self.kept_from + length)
            self.show(self.part(self.kept_from, self.place))
            self.kept_from = None

    def more(self) -> Reading[bool]:
        """Wait for more of the answer; false once it is over."""
        if self.is_over:
            return False
        yield
        return True

    def blanks(self) -> Reading[str]:
        """Skip what is blank, and return it."""
        skipped = ""
        while True:
            found = _BLANKS.match(self.text, self.at)
            assert found is not None, "it matches nothing, too"
            skipped += found[0]
            self.at = found.end()
            if self.at < len(self.text) or not (yield from self.more()):
                return skipped

    def end(self, *texts: str) -> Reading[str]:
        """Read one of the texts, and blanks before it; models may leave it out, and then the blanks are text."""
        blanks = yield from self.blanks()
        found = yield from self.expect(*texts)
        if found:
            self._blanks.clear()
        else:
            self.show(blanks)
        return found

    def expect(self, *texts: str) -> Reading[str]:
        """Read the first of the texts that comes next; empty if none does, and then nothing was read."""
        longest = max(map(len, texts))
        while True:
            rest = self.text[self.at : self.at + longest]
            found = next((each for each in texts if rest.startswith(each) or each.startswith(rest)), "")
            if found and not rest.startswith(found) and (yield from self.more()):
                continue
            found = next((each for each in texts if rest.startswith(each)), "")
            self.at += len(found)
            return found

    def until(self, wanted: Wanted, use: Callable[[str], None]) -> Reading[str]:
        """Use the text up to the first of the wanted ones, and read that; empty if the answer ends without one."""
        while True:
            found = [(at, -len(each)) for each in wanted.strings if (at := self.text.find(each, self.at)) >= 0]
            cut = len(self.text) if self.is_over else wanted.partial_start(self.text, self.at)
            if found and min(found)[0] < cut:
                at, length = min(found)
                use(self.text[self.at : at])
                self.at = at - length
                return self.text[at : self.at]
            use(self.text[self.at : cut])
            self.at = cut
            if not (yield from self.more()):
                return ""

    def word(self, pattern: re.Pattern[str], most_chars: int) -> Reading[str]:
        """Read as many characters as `pattern` takes; empty if it takes none, or more than so many."""
        while True:
            found = pattern.match(self.text, self.at)
            end = self.at if found is None else found.end()
            is_long = end - self.at > most_chars
            if is_long or end < len(self.text) or not (yield from self.more()):
                word = "" if is_long else self.text[self.at : end]
                self.at += len(word)
                return word


class ScanningParser:
    """A `CallParser` made of one generator that reads the whole answer."""

    __slots__ = ("_reading", "_scanner")

    def __init__(self, read: Callable[[Scanner], Reading[None]]) -> None:
        self._scanner = Scanner()
        self._reading = read(self._scanner)
        next(self._reading)

    def push(self, text: str) -> Found:
        """Read on as far as possible."""
        self._scanner.add(text)
        next(self._reading)
        return self._scanner.take()

    def flush(self) -> Found:
        """Read to the end."""
        self._scanner.is_over = True
        for _ in self._reading:
            raise AssertionError("a reader waits for more of an answer that has ended")
        return self._scanner.take()
