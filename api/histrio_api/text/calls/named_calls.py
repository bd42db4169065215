"""Calls whose name is plain text between marks, with their arguments as JSON behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from histrio.contracts.grammar import TagStructure
from histrio.contracts.tool_format import CallLayout, CallParser, FormatExample, Schemas, WrittenCall
from histrio.errors import RequestError
from histrio_api.text.calls.ids import new_id, short_id
from histrio_api.text.calls.json_calls import read_objects
from histrio_api.text.calls.json_values import MAX_NAME_CHARS, read_value
from histrio_api.text.calls.recognition import recognised
from histrio_api.text.calls.scanner import Reading, Scanner, ScanningParser
from histrio_api.text.stops import Wanted

__all__ = ["PLAIN_NAME", "NamedCalls", "check_name"]

PLAIN_NAME = re.compile(r"[\w.\-/:]*")
"""Characters of a name that stands between marks."""


@dataclass(frozen=True, kw_only=True)
class NamedCalls:
    """A `ToolFormat` whose calls are `BEGIN name MIDDLE {arguments} END`, perhaps all of them between two marks."""

    name: str
    section: str = ""
    """Comes before the first call."""
    section_end: str = ""
    """Comes behind the last call."""
    begins: tuple[str, ...]
    """Come before a name. The first is the one that a grammar writes."""
    middles: tuple[str, ...]
    """Come between name and arguments. The first is the one that a grammar writes."""
    ends: tuple[str, ...]
    """Come behind the arguments; the first is the one that a grammar writes."""
    written_end: str | None = None
    """What a grammar writes instead of the first of `ends`."""
    separator: str = ""
    """What a grammar writes between calls."""
    is_section_only: bool = False
    """Calls stand within a section only, with `separator` between them."""
    is_numbered: bool = False
    """The model writes `functions.NAME:POSITION`, which is also the call's id."""
    id_mark: str = ""
    """May come between the name and `middles`, with the call's id behind it."""
    takes_list: bool = False
    """Behind `begins` there may also be a list of objects with names and arguments."""
    has_short_ids: bool = False
    """The template takes ids of nine letters and digits."""
    source_marks: tuple[str, ...] = ()
    """A chat template that writes no earlier calls is this format's if it contains all of these."""
    examples: tuple[FormatExample, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        """All that is fixed, but for blanks and line breaks."""
        texts = (self.section, self.section_end, *self.begins, *self.middles, *self.ends)
        return tuple(dict.fromkeys(each for each in texts if each.strip("` \n")))

    @cached_property
    def layout(self) -> CallLayout:
        """Sections hold all calls; what has none can stand anywhere."""
        return CallLayout(
            trigger=self.section or self.begins[0],
            before=self.section,
            separator=self.separator,
            after=self.section_end,
            takes_text_after=not self.section,
        )

    def recognises(self, written: WrittenCall) -> bool:
        """The template's own call is read as one."""
        return recognised(self, written, (self.section, self.begins[0]), self.source_marks)

    def parser(self, schemas: Schemas) -> CallParser:
        """For one answer; it takes any name."""
        return ScanningParser(self._read)

    def structure(self, name: str, schema: Mapping[str, Any]) -> TagStructure:
        """A call whose name is fixed; the position of a numbered one is always the first."""
        check_name(name)
        spelled = f"functions.{name}:0" if self.is_numbered else name
        end = "".join(self.ends[:1]) if self.written_end is None else self.written_end
        return TagStructure(f"{self.begins[0]}{spelled}{self.middles[0]}", dict(schema), end)

    def call_id(self, name: str, position: int) -> str:
        """As the template takes it."""
        if self.is_numbered:
            return f"functions.{name}:{position}"
        return short_id() if self.has_short_ids else new_id()

    @cached_property
    def _firsts(self) -> Wanted:
        return Wanted([each for each in (self.section, *(() if self.is_section_only else self.begins)) if each])

    @cached_property
    def _ends(self) -> Wanted:
        nexts = (self.section_end,) if self.is_section_only else (*self.ends, *self.begins, self.section_end)
        return Wanted(list(dict.fromkeys(each.strip() for each in nexts if each.strip("` \n"))))

    def _read(self, scanner: Scanner) -> Reading[None]:
        while mark := (yield from scanner.until(self._firsts, scanner.show)):
            scanner.begin_trial(len(mark))
            num_calls = 0
            if mark == self.section:
                while begin := (yield from self._next_begin(scanner)):
                    if num_calls:
                        scanner.begin_trial(len(begin))
                    if not (yield from self._call(scanner)):
                        scanner.give_up(len(begin) if num_calls else len(mark))
                        break
                    num_calls += 1
                    if self.is_section_only:
                        yield from scanner.end(self.separator.strip())
                else:
                    scanner.give_up(len(mark))
                if num_calls:
                    yield from scanner.end(self.section_end)
            elif not (yield from self._call(scanner)):
                scanner.give_up(len(mark))

    def _next_begin(self, scanner: Scanner) -> Reading[str]:
        blanks = yield from scanner.blanks()
        begin = yield from scanner.expect(*self.begins)
        if not begin and scanner.kept_from is None:
            scanner.show(blanks)
        return begin

    def _call(self, scanner: Scanner) -> Reading[bool]:
        """What follows the beginning of a call, if it is one."""
        if self.takes_list:
            yield from scanner.blanks()
            if (yield from scanner.expect("[")):
                yield from scanner.blanks()
                found = yield from read_objects(scanner, self._ends)
                if found:
                    yield from scanner.end("]")
                return found
        spelled = yield from scanner.word(PLAIN_NAME, MAX_NAME_CHARS)
        name = spelled.removeprefix("functions.").partition(":")[0] if self.is_numbered else spelled
        if not name:
            return False
        call_id = spelled if self.is_numbered else ""
        if self.id_mark and (yield from scanner.expect(self.id_mark)):
            call_id = yield from scanner.word(PLAIN_NAME, MAX_NAME_CHARS)
        if not (yield from scanner.expect(*self.middles)):
            return False
        scanner.begin_call(name, call_id)
        yield from scanner.blanks()
        if self.ends and (yield from scanner.expect(*self.ends)):
            scanner.argue("{}")
            return True
        yield from read_value(scanner, scanner.argue, self._ends)
        if self.ends:
            yield from scanner.end(*(each.lstrip() for each in self.ends))
        return True


def check_name(name: str) -> None:
    """Raise `RequestError` for one that would not be read again."""
    if not name or PLAIN_NAME.fullmatch(name) is None or len(name) > MAX_NAME_CHARS:
        text = "must have 1 to 256 letters, digits, or characters of _.-/: to be called in this model's form"
        raise RequestError(text, param="name")
