"""Free text with structures in it: text until a trigger, then one of the structures that begin so.

A trigger is a lazy lexeme: of all that could still match, llguidance takes the shortest, so no free text gets past one.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from histrio.contracts.grammar import TagSpec, TagStructure
from histrio.errors import RequestError
from histrio_grammars.bounds import LIMITS
from histrio_grammars.schema import decode_schema
from histrio_grammars.tokens import OwnTokens

__all__ = ["FREE_TEXT", "Grammar", "decode_tags", "free_tokens", "tag_grammars", "within"]

FREE_TEXT = "TEXT: /(.|\\n)*/"
Grammar: TypeAlias = dict[str, Any]
"""One of llguidance's grammars; others refer to it by its `name`."""


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
    structures = [
        msgspec.structs.replace(each, schema=_checked_schema(each, f"structures[{at}].schema"))
        for at, each in enumerate(spec.structures)
    ]
    return msgspec.structs.replace(spec, structures=structures)


def tag_grammars(spec: TagSpec, tokens: OwnTokens, json_options: dict[str, Any]) -> list[Grammar]:
    """llguidance's grammars of it, the outermost first."""
    lines = _with_text(spec, tokens) if spec.separator is None else _without_text(spec, tokens)
    grammars: list[Grammar] = [{"lark_grammar": "\n".join(lines)}]
    for at, each in enumerate(spec.structures):
        assert isinstance(each.schema, dict), "decode_tags makes objects of true and false"
        grammars.append({"name": f"schema_{at}", "json_schema": each.schema | {"x-guidance": json_options}})
    return grammars


def free_tokens(tokens: OwnTokens, literals: tuple[str, ...]) -> str:
    """The rule `lead`: text and tokens that may stand before more text."""
    ids = tokens.beside(literals)
    return f"lead: (TEXT <[{ids}]>)*" if ids else 'lead: ""'


def within(place: str, error: RequestError) -> RequestError:
    """The same refusal, with its place in the whole specification."""
    param = f"{place}.{error.param}".replace(".[", "[") if error.param else place
    return RequestError(str(error), param=param, code=error.code)


def _without_text(spec: TagSpec, tokens: OwnTokens) -> list[str]:
    bodies = (_body(tokens, each, at, each.begin) for at, each in enumerate(spec.structures))
    more = f"({tokens.literal(spec.separator or '')} item)*"
    return [f"start: item {'' if spec.is_single else more}", f"item: {' | '.join(bodies)}"]


def _with_text(spec: TagSpec, tokens: OwnTokens) -> list[str]:
    begun: dict[str, list[str]] = {}
    for at, each in enumerate(spec.structures):
        trigger = _trigger_of(spec, each)
        begun.setdefault(trigger, []).append(_body(tokens, each, at, each.begin[len(trigger) :]))
    heads = [f"head_{at} ({' | '.join(bodies)})" for at, bodies in enumerate(begun.values())]
    # A trigger may also come as a token of its own, or within one.
    firsts = {at: first for at, each in enumerate(spec.structures) if (first := tokens.first(each.begin))}
    heads += [f"TEXT {_body(tokens, spec.structures[at], at, spec.structures[at].begin)}" for at in firsts]
    return [
        "start: item | text" if spec.is_single else "start: item* text",
        f"item: lead ({' | '.join(heads)})",
        "text: lead TEXT",
        free_tokens(tokens, (*begun, *firsts.values())),
        *(f"head_{at}[lazy]: TEXT {msgspec.json.encode(each).decode()}" for at, each in enumerate(begun)),
        FREE_TEXT,
    ]


def _body(tokens: OwnTokens, structure: TagStructure, at: int, begin: str) -> str:
    parts = []
    for field, text in (("begin", begin), ("end", structure.end)):
        try:
            parts.append(tokens.literal(text))
        except RequestError as error:
            raise within(f"structures[{at}].{field}", error) from None
    return f"{parts[0]} @schema_{at} {parts[1]}"


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


def _checked_schema(structure: TagStructure, place: str) -> dict[str, Any]:
    try:
        return decode_schema(msgspec.json.encode(structure.schema).decode())
    except RequestError as error:
        raise within(place, error) from None
