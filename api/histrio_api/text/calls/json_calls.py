"""Calls as JSON objects with a name and arguments: one between two marks, several in a list, or by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import msgspec

from histrio.contracts.grammar import TagStructure
from histrio.contracts.tool_format import CallLayout, CallParser, FormatExample, Schemas, WrittenCall
from histrio_api.text.calls.ids import new_id, short_id
from histrio_api.text.calls.json_values import decoded, read_name, read_value
from histrio_api.text.calls.recognition import recognised
from histrio_api.text.calls.scanner import Reading, Scanner, ScanningParser
from histrio_api.text.stops import Wanted

__all__ = ["JsonCalls", "read_objects"]

_NAME, _ARGUMENTS = ("name", "tool_name"), ("arguments", "parameters")


@dataclass(frozen=True)
class JsonCalls:
    """A `ToolFormat` whose calls are `{"name": …, "arguments": …}`."""

    name: str
    begins: tuple[str, ...]
    """Each of them begins a call, or a list of them."""
    end: str
    """Ends it; models may leave it out. Empty where nothing does."""
    layout: CallLayout
    opening: str
    """What a grammar writes before the object."""
    closing: str
    """What it writes behind it."""
    examples: tuple[FormatExample, ...] = ()
    name_key: str = "name"
    arguments_key: str = "arguments"
    lead: str = ""
    """What a grammar writes in the object before the name."""
    joint: str = ""
    """Between two calls that share their marks, without being a list. A line break stands for any blanks."""
    is_marked: bool = True
    """False: what begins a call may begin other JSON. Only the names of the request's tools make it a call then."""
    needed: tuple[str, ...] = ()
    """A chat template of this format writes these around a call."""
    source_marks: tuple[str, ...] = ()
    """A chat template that writes no earlier calls is this format's if it contains all of these …"""
    foreign_marks: tuple[str, ...] = ()
    """… and none of these."""
    has_short_ids: bool = False
    """The template takes ids of nine letters and digits."""

    @property
    def marks(self) -> tuple[str, ...]:
        """What begins and what ends a call."""
        return tuple(each for each in (*self.begins, self.end) if len(each) > 1)

    def recognises(self, written: WrittenCall) -> bool:
        """The template's own call is read as one, under this format's key."""
        needed = (f'"{self.name_key}"', f'"{self.arguments_key}"', self.end, *self.needed)
        return recognised(self, written, needed, self.source_marks, self.foreign_marks)

    def parser(self, schemas: Schemas) -> CallParser:
        """For one answer."""
        return ScanningParser(partial(self._read, schemas))

    def structure(self, name: str, schema: Mapping[str, Any]) -> TagStructure:
        """An object whose name is fixed."""
        spelled = msgspec.json.encode(name).decode()
        begin = f'{self.opening}{{{self.lead}"{self.name_key}": {spelled}, "{self.arguments_key}": '
        return TagStructure(begin, dict(schema), f"}}{self.closing}")

    def call_id(self, name: str, position: int) -> str:
        """As the template takes it."""
        return short_id() if self.has_short_ids else new_id()

    @cached_property
    def _begins(self) -> Wanted:
        return Wanted(self.begins)

    @cached_property
    def _ends(self) -> Wanted:
        return Wanted([self.end] if self.end else [])

    def _read(self, schemas: Schemas, scanner: Scanner) -> Reading[None]:
        while begin := (yield from scanner.until(self._begins, scanner.show)):
            scanner.begin_trial(len(begin))
            if begin in "{[":
                scanner.at -= len(begin)
            if not (yield from self._calls(schemas, scanner)):
                scanner.give_up(len(begin))

    def _calls(self, schemas: Schemas, scanner: Scanner) -> Reading[bool]:
        """All calls between two marks."""
        names = None if self.is_marked else schemas
        yield from scanner.blanks()
        is_list = bool((yield from scanner.expect("[")))
        if is_list:
            yield from scanner.blanks()
        if not (yield from read_objects(scanner, self._ends, names, "," if is_list else self.joint)):
            return False
        if is_list:
            yield from scanner.end("]")
        if self.end:
            yield from scanner.end(self.end)
        return True


def read_objects(scanner: Scanner, ends: Wanted, names: Schemas | None = None, joint: str = ",") -> Reading[bool]:
    """Calls with `joint` between them; false if there is none. What follows the last one stays unread."""
    if not (yield from read_object(scanner, ends, names)):
        return False
    while joint and (yield from _goes_on(scanner, joint)):
        yield from scanner.blanks()
        scanner.begin_trial(0)
        if not (yield from read_object(scanner, ends, names)):
            scanner.give_up(0)
            break
    return True


def _goes_on(scanner: Scanner, joint: str) -> Reading[bool]:
    """Whether another call follows."""
    if not joint.isspace():
        return bool((yield from scanner.end(joint)))
    found = yield from scanner.end("{")
    scanner.at -= len(found)
    return bool(found)


def read_object(scanner: Scanner, ends: Wanted, names: Schemas | None = None) -> Reading[bool]:
    """One object with a name and arguments, if it is one; `names` that it may have, None for any.

    A call begins with its arguments, or where the object ends without any.
    """
    name: str | None = None
    early: list[str] = []
    num_keys, is_begun = 0, False
    if not (yield from scanner.expect("{")):
        return False
    while True:
        yield from scanner.blanks()
        if (yield from scanner.expect("}")):
            break
        if num_keys:
            if not (yield from scanner.expect(",")):
                return is_begun
            yield from scanner.blanks()
        key = yield from read_name(scanner)
        yield from scanner.blanks()
        if key is None or not (yield from scanner.expect(":")):
            return is_begun
        yield from scanner.blanks()
        num_keys += 1
        if key in _NAME and name is None:
            name = yield from read_name(scanner)
            if name is None or (names is not None and name not in names):
                return False
        elif key in _ARGUMENTS and name is not None and not is_begun:
            scanner.begin_call(name)
            is_begun = True
            if not (yield from _arguments(scanner, ends)):
                return True
        else:
            value: list[str] = []
            if not (yield from read_value(scanner, value.append, ends)):
                return is_begun
            if key in _ARGUMENTS:
                early = value
    if name is None:
        return False
    if not is_begun:
        scanner.begin_call(name)
        scanner.argue(_plain("".join(early)) or "{}")
    return True


def _arguments(scanner: Scanner, ends: Wanted) -> Reading[bool]:
    """Arguments come as they are written; a string of JSON is what it says."""
    if (yield from scanner.expect('"')):
        scanner.at -= 1
        written: list[str] = []
        is_whole = yield from read_value(scanner, written.append, ends)
        scanner.argue(_plain("".join(written)))
        return is_whole
    return (yield from read_value(scanner, scanner.argue, ends))


def _plain(written: str) -> str:
    value = decoded(written) if written.startswith('"') else None
    return value if isinstance(value, str) else written
