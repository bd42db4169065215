"""Gemma's calls: `call:name{key:value,…}` between two marks, with marks around each string instead of quotes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
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
from histrio_api.text.calls.typed_values import escaped
from histrio_api.text.stops import Wanted

__all__ = ["GemmaCalls"]

_WORD = re.compile(r"[^\s{}\[\],:<>\"]*")
_CALL = "call:"


@dataclass(frozen=True, kw_only=True)
class GemmaCalls:
    """A `ToolFormat` whose calls are `BEGIN call:name{key:QUOTE text QUOTE,key:1} END`."""

    name: str
    begin: str
    end: str
    quote: str
    """Around every string."""
    source_marks: tuple[str, ...] = ()
    """A chat template that writes no earlier calls is this format's if it contains all of these."""
    examples: tuple[FormatExample, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        """All three."""
        return (self.begin, self.end, self.quote)

    @cached_property
    def layout(self) -> CallLayout:
        """A call can stand anywhere."""
        return CallLayout(trigger=self.begin, takes_text_after=True)

    def recognises(self, written: WrittenCall) -> bool:
        """The template's own call is read as one."""
        return recognised(self, written, (self.begin,), self.source_marks)

    def parser(self, schemas: Schemas) -> CallParser:
        """For one answer; it takes any name."""
        return ScanningParser(self._read)

    def structure(self, name: str, schema: Mapping[str, Any]) -> TagStructure:
        """A call whose name is fixed, with a place for each argument."""
        check_name(name)
        found, unenforced = parameters_of(schema, lambda key, types: (f"{key}:", ""), self.quote)
        parameters = [
            msgspec.structs.replace(each, begin=f"{each.begin}{self.quote}", end=f"{self.quote}{each.end}")
            if each.schema is None and each.name_end is None
            else each
            for each in found
        ]
        begin, end = f"{self.begin}{_CALL}{name}{{", f"}}{self.end}"
        return TagStructure(begin, {}, end, parameters=parameters, separator=",", unenforced=unenforced)

    def call_id(self, name: str, position: int) -> str:
        """As OpenAI's."""
        return new_id()

    @cached_property
    def _begins(self) -> Wanted:
        return Wanted([self.begin])

    @cached_property
    def _quotes(self) -> Wanted:
        return Wanted([self.quote])

    def _read(self, scanner: Scanner) -> Reading[None]:
        while mark := (yield from scanner.until(self._begins, scanner.show)):
            scanner.begin_trial(len(mark))
            yield from scanner.blanks()
            name = ""
            if (yield from scanner.expect(_CALL)):
                name = yield from scanner.word(PLAIN_NAME, MAX_NAME_CHARS)
            yield from scanner.blanks()
            if not name or not (yield from scanner.expect("{")):
                scanner.give_up(len(mark))
                continue
            scanner.begin_call(name)
            scanner.at -= 1
            yield from self._value(scanner)
            yield from scanner.end(self.end)

    def _value(self, scanner: Scanner) -> Reading[None]:
        """One value as JSON; what makes no sense is passed on as it is, up to the end of the call."""
        yield from scanner.blanks()
        if (yield from scanner.expect(self.quote)):
            scanner.argue('"')
            yield from scanner.until(self._quotes, lambda text: scanner.argue(escaped(text)))
            scanner.argue('"')
        elif (yield from scanner.expect("{")):
            yield from self._items(scanner, "{", "}")
        elif (yield from scanner.expect("[")):
            yield from self._items(scanner, "[", "]")
        else:
            scanner.argue(_scalar((yield from scanner.word(_WORD, MAX_NAME_CHARS))))

    def _items(self, scanner: Scanner, opening: str, closing: str) -> Reading[None]:
        """What stands in an object or a list, up to its end."""
        scanner.argue(opening)
        num_items = 0
        while True:
            yield from scanner.blanks()
            if (yield from scanner.expect(closing, self.end)) or scanner.at == len(scanner.text):
                break
            start = scanner.place
            if num_items and not (yield from scanner.expect(",")):
                break
            scanner.argue(", " if num_items else "")
            yield from scanner.blanks()
            if opening == "{":
                yield from self._key(scanner)
            yield from self._value(scanner)
            num_items += 1
            if scanner.place == start:
                break
        scanner.argue(closing)

    def _key(self, scanner: Scanner) -> Reading[None]:
        key: list[str] = []
        if (yield from scanner.expect(self.quote)):
            yield from scanner.until(self._quotes, key.append)
        else:
            key.append((yield from scanner.word(_WORD, MAX_NAME_CHARS)))
        yield from scanner.blanks()
        yield from scanner.expect(":")
        scanner.argue(f"{msgspec.json.encode(''.join(key)).decode()}: ")


def _scalar(word: str) -> str:
    """A number, or a name that JSON has; anything else is a string without its marks."""
    try:
        msgspec.json.decode(word)
    except msgspec.DecodeError:
        return msgspec.json.encode(word).decode()
    return word
