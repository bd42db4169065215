"""Free reasoning before an answer that has a grammar."""

from __future__ import annotations

import json

from histrio.messages import GrammarSpec
from histrio_grammars.bodies import FREE_TEXT, Grammar, free_tokens
from histrio_grammars.tokens import OwnTokens

__all__ = ["after_reasoning"]


def after_reasoning(grammars: list[Grammar], spec: GrammarSpec, tokens: OwnTokens) -> list[Grammar]:
    """llguidance's grammars, the first of them for what follows the reasoning.

    Both marks count however they are spelled, since a reader of the text sees no tokens.
    """
    if spec.reasoning == "never":
        return grammars

    marks = spec.marks
    separator = json.dumps(marks.separator) if marks.separator else ""
    lines = [
        "start: reasoning @answer" if spec.reasoning == "already" else "start: (opened reasoning)? @answer",
        f"reasoning: lead (closed | TEXT {tokens.literal(marks.close)}) {separator}",
        f"closed[lazy]: TEXT {json.dumps(marks.close)}",
        free_tokens(tokens, (marks.close,)),
        FREE_TEXT,
    ]
    if spec.reasoning == "maybe":
        lines += [
            f'opened: spelled | "\\n"? {tokens.literal(marks.open)}',
            f"spelled[lazy]: /\\n?/ {json.dumps(marks.open)}",
        ]
    answer = grammars[0] | {"name": "answer"}
    return [{"lark_grammar": "\n".join(lines)}, answer, *grammars[1:]]
