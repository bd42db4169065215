"""Free reasoning before an answer that has a grammar."""

from __future__ import annotations

import json

from histrio.contracts.grammar import REASONING_BREAK, REASONING_CLOSE, REASONING_OPEN
from histrio.messages import Reasoning
from histrio_grammars.tags import FREE_TEXT, Grammar, free_tokens
from histrio_grammars.tokens import OwnTokens

__all__ = ["after_reasoning"]


def after_reasoning(grammars: list[Grammar], reasoning: Reasoning, tokens: OwnTokens) -> list[Grammar]:
    """llguidance's grammars, the first of them for what follows the reasoning.

    Both marks count however they are spelled, since a reader of the text sees no tokens.
    """
    if reasoning == "never":
        return grammars

    lines = [
        "start: reasoning @answer" if reasoning == "already" else "start: (opened reasoning)? @answer",
        f"reasoning: lead (closed | TEXT {tokens.literal(REASONING_CLOSE)}) {json.dumps(REASONING_BREAK)}",
        f"closed[lazy]: TEXT {json.dumps(REASONING_CLOSE)}",
        free_tokens(tokens, (REASONING_CLOSE,)),
        FREE_TEXT,
    ]
    if reasoning == "maybe":
        lines += [
            f'opened: spelled | "\\n"? {tokens.literal(REASONING_OPEN)}',
            f"spelled[lazy]: /\\n?{REASONING_OPEN}/",
        ]
    answer = grammars[0] | {"name": "answer"}
    return [{"lark_grammar": "\n".join(lines)}, answer, *grammars[1:]]
