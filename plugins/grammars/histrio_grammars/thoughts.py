"""A free thought before an answer that has a grammar."""

from __future__ import annotations

import json

from histrio.contracts.grammar import THOUGHT_BREAK, THOUGHT_CLOSE, THOUGHT_OPEN
from histrio.messages import Thinking
from histrio_grammars.tags import FREE_TEXT, Grammar, free_tokens
from histrio_grammars.tokens import OwnTokens

__all__ = ["after_thought"]


def after_thought(grammars: list[Grammar], thinking: Thinking, tokens: OwnTokens) -> list[Grammar]:
    """llguidance's grammars, the first of them for what follows the thought.

    Both marks count however they are spelled, since a reader of the text sees no tokens.
    """
    if thinking == "never":
        return grammars

    lines = [
        "start: thought @answer" if thinking == "already" else "start: (opened thought)? @answer",
        f"thought: lead (closed | TEXT {tokens.literal(THOUGHT_CLOSE)}) {json.dumps(THOUGHT_BREAK)}",
        f"closed[lazy]: TEXT {json.dumps(THOUGHT_CLOSE)}",
        free_tokens(tokens, (THOUGHT_CLOSE,)),
        FREE_TEXT,
    ]
    if thinking == "maybe":
        lines += [
            f'opened: spelled | "\\n"? {tokens.literal(THOUGHT_OPEN)}',
            f"spelled[lazy]: /\\n?{THOUGHT_OPEN}/",
        ]
    answer = grammars[0] | {"name": "answer"}
    return [{"lark_grammar": "\n".join(lines)}, answer, *grammars[1:]]
