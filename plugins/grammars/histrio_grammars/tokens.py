"""Texts that are a single token of their own, such as `</think>`: to llguidance such tokens are no text at all.

A lexeme of llguidance matches bytes only. So where a fixed text contains such a token it is asked for by its id, and
where text is free those that mean nothing special are let through by their ids.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from histrio.errors import RequestError

if TYPE_CHECKING:
    import llguidance

    from histrio_grammars.trimmed import TokenizerFile

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
    id_ranges: tuple[tuple[int, int], ...] = ()
    """First and last of the ids of all tokens, these and ordinary ones."""
    line_break: int | None = None
    """Id of the token that is one."""

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
        ids = frozenset(self.ids.values()) - self.hidden_beside(literals)
        return _written(_ranges(sorted(ids)))

    def all_but(self, left_out: Iterable[int]) -> str:
        """All other tokens of the model, ordinary ones too, as ranges of ids."""
        kept = list(self.id_ranges)
        for id_ in sorted(left_out):
            at = next((at for at, (low, high) in enumerate(kept) if low <= id_ <= high), None)
            if at is not None:
                low, high = kept[at]
                kept[at : at + 1] = [each for each in ((low, id_ - 1), (id_ + 1, high)) if each[0] <= each[1]]
        return _written(kept)

    def hidden_beside(self, literals: Iterable[str]) -> frozenset[int]:
        """Ids of those that free text may not hold: they are no text, or contain a part of a literal."""
        texts = list(literals)
        return frozenset(
            id_ for text, id_ in self.ids.items() if id_ not in self.plain_ids or _overlaps_any(text, texts)
        )

    @cached_property
    def _any_of(self) -> re.Pattern[str]:
        longest_first = sorted(self.ids, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first))})")


def own_tokens(file: TokenizerFile, tokens: llguidance.LLTokenizer, eos_ids: Iterable[int]) -> OwnTokens:
    """What tokenizer.json says of its `added_tokens`."""
    ends = frozenset(eos_ids)
    hidden = frozenset(each["id"] for each in file.added_tokens if each.get("special")) | ends
    ids = {each["content"]: each["id"] for each in file.added_tokens if tokens.is_special_token(each["id"])}
    breaks = tokens.tokenize_str("\n")
    return OwnTokens(
        ids=ids,
        plain_ids=frozenset(ids.values()) - hidden,
        eos_ids=ends,
        id_ranges=tuple(_ranges(sorted(file.ids))),
        line_break=breaks[0] if len(breaks) == 1 else None,
    )


def _overlaps_any(text: str, others: Iterable[str]) -> bool:
    return any(_overlap(text, other) for other in others)


def _overlap(first: str, second: str) -> bool:
    """Whether one text contains the other, or ends as the other begins."""
    if first in second or second in first:
        return True

    ends = range(1, min(len(first), len(second)))
    return any(first.endswith(second[:count]) or second.endswith(first[:count]) for count in ends)


def _ranges(ids: list[int]) -> list[tuple[int, int]]:
    """First and last of each run of sorted ids."""
    found: list[tuple[int, int]] = []
    for id_ in ids:
        if found and found[-1][1] == id_ - 1:
            found[-1] = (found[-1][0], id_)
        else:
            found.append((id_, id_))
    return found


def _written(ranges: Iterable[tuple[int, int]]) -> str:
    """In llguidance's form: `3,5-9`."""
    return ",".join(f"{low}-{high}" if high > low else f"{low}" for low, high in ranges)
