"""How each kind of grammar becomes one that llguidance compiles."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from histrio.contracts.grammar import TagSpec
from histrio.errors import RequestError
from histrio.messages import GrammarSpec
from histrio_grammars.bodies import Grammar, within
from histrio_grammars.bounds import LIMITS
from histrio_grammars.expressions import portable
from histrio_grammars.reasoning import after_reasoning
from histrio_grammars.schema import decode_schema, read_schema
from histrio_grammars.tags import decode_tags, tag_grammars, unenforced_in_tags
from histrio_grammars.tokens import OwnTokens

__all__ = ["to_llguidance", "unenforced"]

_WHITESPACE = r"( |\n {0,32}|\n\t{0,8})"
"""Blanks that may stand between the parts of JSON. Without a bound, a model may write blanks for ever."""
_JSON_OPTIONS = {"whitespace_pattern": _WHITESPACE, "lenient": False, "coerce_one_of": False}
_NO_TOKENS = OwnTokens()
_GBNF_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)


def to_llguidance(spec: GrammarSpec, tokens: OwnTokens = _NO_TOKENS) -> str:
    """The grammar in llguidance's own form, not compiled. Raises `RequestError`."""
    if len(spec.text.encode()) > LIMITS["bytes"]:
        raise RequestError(f"the grammar is longer than {LIMITS['bytes']} bytes")

    if spec.kind == "text":
        grammars = [_any_text(tokens)]
    elif spec.kind == "structural_tag":
        tags = decode_tags(spec.text)
        grammars = tag_grammars(tags, tokens, _JSON_OPTIONS)
        if tags.instead is not None:
            grammars.append(_instead(tags.instead) | {"name": "instead"})
    else:
        grammars = [_CONVERTERS[spec.kind](spec.text)]
    return msgspec.json.encode({"grammars": after_reasoning(grammars, spec, tokens)}).decode()


def _any_text(tokens: OwnTokens) -> Grammar:
    """Tokens as the model likes: what is none of a text, too."""
    ids = tokens.all_but(tokens.eos_ids)
    return {"lark_grammar": f"start: (<[{ids}]>)*" if ids else 'start: ""'}


def unenforced(spec: GrammarSpec) -> tuple[str, ...]:
    """Places in its schemas of keywords that are left out. Raises `RequestError`."""
    if spec.kind == "json_schema":
        return read_schema(spec.text).unenforced
    if spec.kind != "structural_tag":
        return ()
    instead = msgspec.json.decode(spec.text, type=TagSpec).instead
    beside = () if instead is None else tuple(f"instead.{place}" for place in unenforced(instead))
    return (*unenforced_in_tags(spec.text), *beside)


def _instead(spec: GrammarSpec) -> Grammar:
    try:
        return _CONVERTERS[spec.kind](spec.text)
    except RequestError as error:
        raise within("instead", error) from None


def _from_schema(text: str) -> Grammar:
    return {"json_schema": decode_schema(text) | {"x-guidance": _JSON_OPTIONS}}


def _from_regex(text: str) -> Grammar:
    if len(text) > LIMITS["pattern characters"]:
        raise RequestError(f"the expression has more than {LIMITS['pattern characters']} characters")
    return _expression(portable(text))


def _from_choice(text: str) -> Grammar:
    """The alternatives as one expression; everything but letters and digits escaped."""
    try:
        choices = msgspec.json.decode(text, type=list[str])
    except msgspec.DecodeError:
        raise RequestError("choices must be a list of strings") from None
    if not 1 <= len(choices) <= LIMITS["choices"]:
        raise RequestError(f"there must be 1 to {LIMITS['choices']} choices")

    escaped = ("".join(c if c.isalnum() else f"\\x{{{ord(c):x}}}" for c in choice) for choice in choices)
    return _expression("|".join(escaped))


def _from_lark(text: str) -> Grammar:
    if re.search(r"%\s*json\b", text):
        raise RequestError("a Lark grammar cannot contain %json here; ask for a json_schema")
    if re.search(r"\btemperature\s*=", text):
        raise RequestError("a rule's temperature is not honoured; set the request's temperature")
    return {"lark_grammar": text}


def _from_gbnf(text: str) -> Grammar:
    from llguidance.gbnf_to_lark import gbnf_to_lark

    text = _GBNF_ESCAPE.sub(_plain, text)
    try:
        lark = gbnf_to_lark(text)
    except Exception as error:  # the converter raises bare Exception, whose text repeats the grammar
        line = re.search(r"at line (\d+)", str(error))
        where = f" in line {line[1]}" if line else ""
        raise RequestError(f"the GBNF grammar has a mistake{where}, an unknown rule, or no rule root") from None
    return {"lark_grammar": lark}


def _plain(escape: re.Match[str]) -> str:
    """Unicode escapes, which the converter gets wrong, as the characters themselves; other escapes as they are."""
    if len(escape[1]) == 1:
        return escape[0]

    code = int(escape[1][1:], 16)
    if code > 0x10FFFF or 0xD800 <= code < 0xE000:
        raise RequestError("the GBNF grammar escapes a character that does not exist")
    return f"\\x{code:02x}" if code < 0x80 else chr(code)


def _expression(text: str) -> Grammar:
    """One expression as a grammar, by llguidance's own quoting."""
    from llguidance import LLMatcher

    grammar: Grammar = msgspec.json.decode(LLMatcher.grammar_from_regex(text))["grammars"][0]
    return grammar


_CONVERTERS: dict[str, Callable[[str], Grammar]] = {
    "json_object": lambda text: _from_schema('{"type":"object"}'),
    "json_schema": _from_schema,
    "regex": _from_regex,
    "choice": _from_choice,
    "lark": _from_lark,
    "gbnf": _from_gbnf,
}
