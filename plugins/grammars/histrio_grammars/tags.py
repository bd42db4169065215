"""Free text with structures in it: text until a trigger, then one of the structures that begin so.

A trigger is a lazy lexeme: of all that could still match, llguidance takes the shortest, so no free text gets past one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from histrio.contracts.grammar import TagParameter, TagSpec, TagStructure
from histrio.errors import RequestError
from histrio_grammars.bodies import FREE_TEXT, Bodies, Grammar, free_tokens, within
from histrio_grammars.bounds import LIMITS
from histrio_grammars.schema import decode_schema, read_schema
from histrio_grammars.tokens import OwnTokens

__all__ = ["decode_tags", "tag_grammars", "unenforced_in_tags"]


def decode_tags(text: str) -> TagSpec:
    """The checked specification; its schemas are those that `decode_schema` gives. Raises `RequestError`."""
    try:
        spec = msgspec.json.decode(text, type=TagSpec)
    except (msgspec.DecodeError, RecursionError):
        raise RequestError("structural tags must be structures and triggers") from None
    if not 1 <= len(spec.structures) <= LIMITS["structures"]:
        raise RequestError(f"there must be 1 to {LIMITS['structures']} structures", param="structures")
    if spec.separator is None:
        _check_triggers(spec)
    structures = [_checked(each, f"structures[{at}]") for at, each in enumerate(spec.structures)]
    return replace(spec, structures=structures)


def tag_grammars(spec: TagSpec, tokens: OwnTokens, json_options: dict[str, Any]) -> list[Grammar]:
    """llguidance's grammars of it, the outermost first; `instead` is one of them only by its name."""
    bodies = Bodies(tokens, json_options)
    lines = _with_text(spec, bodies) if spec.separator is None else _in_a_row(spec, spec.separator, bodies)
    return [{"lark_grammar": "\n".join([*lines, *bodies.lines])}, *bodies.grammars]


def unenforced_in_tags(text: str) -> tuple[str, ...]:
    """Places of keywords in the schemas that are left out. Raises `RequestError`."""
    found: list[str] = []
    for at, each in enumerate(msgspec.json.decode(text, type=TagSpec).structures):
        if each.parameters is None:
            found += [f"structures[{at}].schema.{place}" for place in _unenforced(each.schema)]
        for place, schema in _schemas_of(each.parameters or (), f"structures[{at}]"):
            found += [f"{place}.{keyword}" for keyword in _unenforced(schema)]
    return tuple(found)


def _schemas_of(parameters: Sequence[TagParameter], place: str) -> Iterator[tuple[str, Any]]:
    for nth, each in enumerate(parameters):
        yield f"{place}.parameters[{nth}].schema", each.schema
        yield from _schemas_of(each.parameters or (), f"{place}.parameters[{nth}]")


def _unenforced(schema: Any) -> tuple[str, ...]:
    return () if schema is None else read_schema(msgspec.json.encode(schema).decode()).unenforced


def _in_a_row(spec: TagSpec, separator: str, bodies: Bodies) -> list[str]:
    """Structures that follow each other, as the whole text or at its end."""
    tokens = bodies.tokens
    items = [bodies.body(each, at, each.begin) for at, each in enumerate(spec.structures)]
    more = "" if spec.is_single else f"({tokens.literal(separator)} item)*"
    last = tokens.literal(spec.after) if spec.after else ""
    lines = [f"item: {' | '.join(items)}"]
    if not (spec.triggers and spec.before):
        first = tokens.literal(spec.before) if spec.before else ""
        return [f"start: {first} item {more} {last}{' | @instead' if spec.instead else ''}", *lines]

    bodies.once(FREE_TEXT)
    trigger = spec.triggers[0]
    rest = tokens.literal(spec.before[len(trigger) :]) if len(spec.before) > len(trigger) else ""
    own = tokens.first(spec.before)
    whole = tokens.literal(spec.before)
    return [
        f"start: text | calls {rest} item {more} {last}" + (f" | lead TEXT {whole} item {more} {last}" if own else ""),
        "calls: lead head",
        "text: lead TEXT",
        *lines,
        free_tokens(tokens, (trigger, *([own] if own else []))),
        f"head[lazy]: TEXT {msgspec.json.encode(trigger).decode()}",
    ]


def _with_text(spec: TagSpec, bodies: Bodies) -> list[str]:
    bodies.once(FREE_TEXT)
    tokens = bodies.tokens
    begun: dict[str, list[str]] = {}
    for at, each in enumerate(spec.structures):
        trigger = _trigger_of(spec, each)
        begun.setdefault(trigger, []).append(bodies.body(each, at, each.begin[len(trigger) :]))
    heads = [f"head_{at} ({' | '.join(each)})" for at, each in enumerate(begun.values())]
    # A trigger may also come as a token of its own, or within one.
    firsts = {at: first for at, each in enumerate(spec.structures) if (first := tokens.first(each.begin))}
    heads += [f"TEXT {bodies.body(spec.structures[at], at, spec.structures[at].begin)}" for at in firsts]
    return [
        "start: item | text" if spec.is_single else "start: item* text",
        f"item: lead ({' | '.join(heads)})",
        "text: lead TEXT",
        free_tokens(tokens, (*begun, *firsts.values())),
        *(f"head_{at}[lazy]: TEXT {msgspec.json.encode(each).decode()}" for at, each in enumerate(begun)),
    ]


def _trigger_of(spec: TagSpec, structure: TagStructure) -> str:
    return next(each for each in spec.triggers if structure.begin.startswith(each))


def _check_triggers(spec: TagSpec) -> None:
    for at, trigger in enumerate(spec.triggers):
        if not trigger:
            raise RequestError("a trigger must not be empty", param=f"triggers[{at}]")
        if any(trigger in other for other in spec.triggers[:at] + spec.triggers[at + 1 :]):
            raise RequestError("a trigger must not be part of another", param=f"triggers[{at}]")
    for at, structure in enumerate(spec.structures):
        if not any(structure.begin.startswith(trigger) for trigger in spec.triggers):
            raise RequestError("begin must start with one of the triggers", param=f"structures[{at}].begin")


def _checked(structure: TagStructure, place: str) -> TagStructure:
    if structure.parameters is None:
        return replace(structure, schema=_decoded(structure.schema, f"{place}.schema"))
    return replace(structure, parameters=_checked_parameters(structure.parameters, place))


def _checked_parameters(parameters: Sequence[TagParameter], place: str) -> list[TagParameter]:
    found = []
    for at, each in enumerate(parameters):
        inner = f"{place}.parameters[{at}]"
        schema = None if each.schema is None else _decoded(each.schema, f"{inner}.schema")
        nested = None if each.parameters is None else _checked_parameters(each.parameters, inner)
        found.append(replace(each, schema=schema, parameters=nested))
    return found


def _decoded(schema: Any, place: str) -> dict[str, Any]:
    try:
        return decode_schema(msgspec.json.encode(schema).decode())
    except RequestError as error:
        raise within(place, error) from None
