"""Free reasoning before an answer that has a grammar, with or without a bound on its length."""

from __future__ import annotations

import json

from histrio.errors import RequestError
from histrio.messages import GrammarSpec
from histrio_grammars.bodies import FREE_TEXT, Grammar, free_tokens
from histrio_grammars.tokens import OwnTokens

__all__ = ["after_reasoning"]


def after_reasoning(grammars: list[Grammar], spec: GrammarSpec, tokens: OwnTokens) -> list[Grammar]:
    """llguidance's grammars, the first of them for what follows the reasoning. Raises `RequestError`.

    Both marks count however they are spelled, since a reader of the text sees no tokens; but the end of reasoning that
    has a bound is a token.
    """
    if spec.reasoning == "never":
        return grammars

    lines = _unbounded(spec, tokens) if spec.max_reasoning_tokens is None else _bounded(spec, tokens)
    if spec.reasoning == "already":
        lines.append("start: reasoning @answer")
    elif spec.kind == "text":
        lines += _before_text(spec, tokens)
    else:
        lines += _before_form(spec, tokens)
    return [{"lark_grammar": "\n".join(lines)}, grammars[0] | {"name": "answer"}, *grammars[1:]]


def _before_form(spec: GrammarSpec, tokens: OwnTokens) -> list[str]:
    opening = spec.marks.open
    return [
        "start: (opened reasoning)? @answer",
        f'opened: spelled | "\\n"? {tokens.literal(opening)}',
        f"spelled[lazy]: /\\n?/ {json.dumps(opening)}",
    ]


def _before_text(spec: GrammarSpec, tokens: OwnTokens) -> list[str]:
    """A text without a form may begin with anything else than the mark: what begins with it is reasoning."""
    opening = spec.marks.open
    _require_own(opening, tokens)
    other_ids = {*tokens.eos_ids, *(id_ for text, id_ in tokens.ids.items() if text == tokens.first(opening))}
    other, line_break = f"<[{tokens.all_but(other_ids)}]>" if tokens.id_ranges else '""', ""
    lines = [f"text: ({other} @answer)?"]
    if tokens.line_break is not None:
        line_break = f"(<[{tokens.line_break}]>)?"
        first = f"<[{tokens.all_but({*other_ids, tokens.line_break})}]>"
        lines = [f"text: ({first} @answer)? | <[{tokens.line_break}]> ({other} @answer)?"]
    return ["start: opened reasoning @answer | text", f"opened: {line_break} {tokens.literal(opening)}", *lines]


def _unbounded(spec: GrammarSpec, tokens: OwnTokens) -> list[str]:
    close = spec.marks.close
    return [
        f"reasoning: lead (closed | TEXT {tokens.literal(close)}) {_separator(spec)}",
        f"closed[lazy]: TEXT {json.dumps(close)}",
        free_tokens(tokens, (close,)),
        FREE_TEXT,
    ]


def _bounded(spec: GrammarSpec, tokens: OwnTokens) -> list[str]:
    """So many tokens, counted by their ids, which is why only the mark's own token ends them. A lexeme that counts its
    tokens (`max_tokens`) would not do: llguidance cannot roll it back, as drafted tokens need."""
    close = spec.marks.close
    _require_own(close, tokens)
    ids = tokens.all_but(tokens.hidden_beside((close,)))
    counted = f"(<[{ids}]>){{0,{spec.max_reasoning_tokens}}}" if ids and spec.max_reasoning_tokens else ""
    return [f"reasoning: {counted} {tokens.literal(close)} {_separator(spec)}"]


def _require_own(mark: str, tokens: OwnTokens) -> None:
    if tokens.id_ranges and not tokens.first(mark):
        raise RequestError("reasoning has a bound only where the marks around it are tokens of their own")


def _separator(spec: GrammarSpec) -> str:
    """Nothing before a text without a form."""
    separator = "" if spec.kind == "text" else spec.marks.separator
    return json.dumps(separator) if separator else ""
