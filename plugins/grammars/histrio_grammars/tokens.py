"""Texts that are a single token of their own, such as `</think>`: to llguidance such tokens are no text at all.

A lexeme of llguidance matches bytes only. So where a fixed text contains such a token it is asked for by its id, and
where text is free those that mean nothing special are let through by their ids.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from histrio.errors import RequestError

if TYPE_CHECKING:
    import llguidance

__all__ = ["OwnTokens", "own_tokens"]


@dataclass(frozen=True)
class OwnTokens:
    """The tokens of a tokenizer that stand for a text of their own, as far as llguidance takes them for special."""

    ids: Mapping[str, int] = field(default_factory=dict)
    """Text → id."""
    plain_ids: frozenset[int] = frozenset()
    """Ids of those that are part of a text: decoding does not leave them out."""
    eos_ids: frozenset[int] = frozenset()
    """Ids of those that end a text."""

    def literal(self, text: str) -> str:
        """A fixed text in Lark's syntax. Raises `RequestError` if a text cannot go on behind a part of it."""
        if any(id_ in self.eos_ids and own in text for own, id_ in self.ids.items()):
            raise RequestError("a fixed text of the grammar contains a token that ends the answer")
        pieces = self._any_of.split(text) if self.ids else [text]
        return " ".join(f"<[{self.ids[each]}]>" if each in self.ids else json.dumps(each) for each in pieces if each)

    def first(self, text: str) -> str:
        """The token with which the text begins, as its text; empty if it is an ordinary one."""
        found = self._any_of.match(text) if self.ids else None
        return found[0] if found else ""

    def beside(self, literals: Iterable[str]) -> str:
        """The tokens that free text may hold, as ranges of ids: none of them contains a part of a literal."""
        texts = list(literals)
        ids = (id_ for text, id_ in self.ids.items() if id_ in self.plain_ids and not _overlaps_any(text, texts))
        return _ranges(sorted(ids))

    @cached_property
    def _any_of(self) -> re.Pattern[str]:
        longest_first = sorted(self.ids, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first))})")


def own_tokens(added: Sequence[Mapping[str, Any]], tokens: llguidance.LLTokenizer, eos_ids: Iterable[int]) -> OwnTokens:
    """What tokenizer.json says of its `added_tokens`."""
    hidden = frozenset(each["id"] for each in added if each.get("special")) | frozenset(eos_ids)
    ids = {each["content"]: each["id"] for each in added if tokens.is_special_token(each["id"])}
    return OwnTokens(ids, frozenset(ids.values()) - hidden, frozenset(eos_ids))


def _overlaps_any(text: str, others: Iterable[str]) -> bool:
    return any(_overlap(text, other) for other in others)


def _overlap(first: str, second: str) -> bool:
    """Whether one text contains the other, or ends as the other begins."""
    if first in second or second in first:
        return True

    ends = range(1, min(len(first), len(second)))
    return any(first.endswith(second[:count]) or second.endswith(first[:count]) for count in ends)


def _ranges(ids: list[int]) -> str:
    """Sorted ids in llguidance's form: `3,5-9`."""
    found: list[list[int]] = []
    for id_ in ids:
        if found and found[-1][1] == id_ - 1:
            found[-1][1] = id_
        else:
            found.append([id_, id_])
    return ",".join(f"{low}-{high}" if high > low else f"{low}" for low, high in found)
