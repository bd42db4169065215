"""Calls whose arguments are elements of their own: a name and a value as plain text, between tags.

The value of an argument that can only be a string is passed on while it comes; any other has to be whole before it is
known what it is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import msgspec

from histrio.contracts.grammar import TagStructure
from histrio.contracts.tool_format import CallLayout, CallParser, FormatExample, Schemas, WrittenCall
from histrio_api.text.calls.ids import new_id
from histrio_api.text.calls.json_values import MAX_NAME_CHARS
from histrio_api.text.calls.named_calls import PLAIN_NAME, check_name
from histrio_api.text.calls.parameter_grammar import parameters_of
from histrio_api.text.calls.recognition import recognised
from histrio_api.text.calls.scanner import Reading, Scanner, ScanningParser
from histrio_api.text.calls.typed_values import as_json, escaped, property_schema, types_of
from histrio_api.text.stops import Wanted

__all__ = ["ParameterCalls"]

_KEY = re.compile(r'[^<>"\n]*')
_POSITION = re.compile("[0-9]*")
_MAX_DIGITS = 4


@dataclass(frozen=True, kw_only=True)
class ParameterCalls:
    """A `ToolFormat` whose calls are `SECTION BEGIN name OPEN (KEY key KEY_END value VALUE_END)… END SECTION_END`."""

    name: str
    section: str
    section_end: str
    begin: str
    """Before a tool's name; empty where the name follows `section`, so that a section has one call."""
    open: str
    """Behind a tool's name; empty where the first argument, or the end of the section, follows."""
    index_end: str = ""
    """Given: behind `open` comes the position of the call among all, counted from 1, and then this."""
    key: str
    key_ends: tuple[str, ...]
    """Between an argument's name and its value; the first is what a grammar writes."""
    typed_ends: Mapping[str, str] = field(default_factory=dict)
    """Type of JSON → what stands instead of the first of `key_ends` before a value of it, where the model tells it."""
    value_end: str
    end: str
    """Behind the arguments of a call."""
    pad: str = ""
    """What the model writes before and behind a value; it is no part of it."""
    gap: str = "\n"
    """What a grammar writes behind an argument, and behind a call."""
    has_one_call: bool = False
    """Each call has a section of its own, which can stand anywhere in a text."""
    source_marks: tuple[str, ...] = ()
    """A chat template that writes no earlier calls is this format's if it contains all of these."""
    examples: tuple[FormatExample, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        """All tags."""
        tags = (self.section, self.section_end, self.begin, self.key, *self._key_ends, self.value_end, self.end)
        return tuple(dict.fromkeys(each.strip() for each in tags if len(each.strip()) > 2))

    @cached_property
    def layout(self) -> CallLayout:
        """A section with several calls holds all of them; one that is a call can stand anywhere."""
        if self.has_one_call:
            return CallLayout(trigger=self.section, separator="\n", takes_text_after=True)
        return CallLayout(
            trigger=self.section, before=f"{self.section}{self.gap}", separator=self.gap, after=self.section_end
        )

    def recognises(self, written: WrittenCall) -> bool:
        """The template's own call is read as one."""
        return recognised(self, written, (self.section, self.key), self.source_marks)

    def parser(self, schemas: Schemas) -> CallParser:
        """For one answer."""
        return ScanningParser(partial(self._read, schemas))

    def structure(self, name: str, schema: Mapping[str, Any]) -> TagStructure:
        """A call whose name is fixed, with an element for each argument."""
        check_name(name)
        opened = f"{self.open}1{self.index_end}" if self.index_end else self.open
        begin = f"{self.begin}{name}{opened}{self.gap}"
        end = f"{self.end}{self.gap if self.end else ''}"
        if self.has_one_call:
            begin = f"{self.section}{self.gap if self.begin else ''}{begin}"
            end += self.section_end
        parameters, unenforced = parameters_of(schema, self._element, self.value_end)
        return TagStructure(begin, {}, end, parameters=parameters, unenforced=unenforced)

    def call_id(self, name: str, position: int) -> str:
        """As OpenAI's."""
        return new_id()

    def _element(self, key: str, types: Collection[str]) -> tuple[str, str]:
        """What stands before and behind the value of an argument."""
        told = "string" if "string" in types else min(types, default="")
        key_end = self.typed_ends.get(told, self.key_ends[0])
        return f"{self.key}{key}{key_end}{self.pad}", f"{self.pad}{self.value_end}{self.gap}"

    @cached_property
    def _key_ends(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.typed_ends.values(), *self.key_ends]))

    @cached_property
    def _firsts(self) -> Wanted:
        return Wanted([each for each in (self.section, self.begin) if each])

    @cached_property
    def _value_ends(self) -> Wanted:
        return Wanted(list(dict.fromkeys([f"{self.pad}{self.value_end}", self.value_end])))

    def _read(self, schemas: Schemas, scanner: Scanner) -> Reading[None]:
        while mark := (yield from scanner.until(self._firsts, scanner.show)):
            scanner.begin_trial(len(mark))
            if mark == self.section and self.begin:
                yield from scanner.blanks()
                if not (yield from scanner.expect(self.begin)):
                    scanner.give_up(len(mark))
                    continue
            while (yield from self._call(schemas, scanner)):
                mark = yield from scanner.end(*(each for each in (self.begin, self.section_end) if each))
                if not mark or mark == self.section_end:
                    break
                scanner.begin_trial(len(mark))
            else:
                scanner.give_up(len(mark))

    def _call(self, schemas: Schemas, scanner: Scanner) -> Reading[bool]:
        """What follows the beginning of a call, if it is one."""
        yield from scanner.blanks()
        name = yield from scanner.word(PLAIN_NAME, MAX_NAME_CHARS)
        if not name or not (yield from self._opens(scanner)):
            return False
        scanner.begin_call(name)
        scanner.argue("{")
        num_arguments = 0
        while (yield from scanner.end(self.key)):
            key = (yield from scanner.word(_KEY, MAX_NAME_CHARS)).strip()
            key_end = yield from scanner.expect(*self._key_ends)
            if not key_end:
                break
            scanner.argue(f"{', ' if num_arguments else ''}{msgspec.json.encode(key).decode()}: ")
            told = frozenset(each for each, end in self.typed_ends.items() if end == key_end)
            types = told or types_of(property_schema(schemas.get(name), key), schemas.get(name))
            yield from self._value(scanner, types)
            num_arguments += 1
        scanner.argue("}")
        if self.end:
            yield from scanner.end(self.end)
        return True

    def _opens(self, scanner: Scanner) -> Reading[bool]:
        """Whether it is a name, by what follows it."""
        if self.index_end:
            if not (yield from scanner.expect(self.open)):
                return False
            position = yield from scanner.word(_POSITION, _MAX_DIGITS)
            return bool(position and (yield from scanner.expect(self.index_end)))
        if self.open:
            return bool((yield from scanner.expect(self.open)))
        yield from scanner.blanks()
        found = yield from scanner.expect(self.key, self.section_end)
        scanner.at -= len(found)
        return bool(found)

    def _value(self, scanner: Scanner, types: frozenset[str]) -> Reading[None]:
        if self.pad:
            yield from scanner.expect(self.pad)
        if types == {"string"}:
            scanner.argue('"')
            yield from scanner.until(self._value_ends, lambda text: scanner.argue(escaped(text)))
            scanner.argue('"')
            return
        written: list[str] = []
        yield from scanner.until(self._value_ends, written.append)
        scanner.argue(as_json("".join(written), types))
