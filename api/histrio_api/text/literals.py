"""Special tokens that are written in messages stay text: they are cut apart before the prompt is encoded.

The governing idea: a character that no text has is put into each of them behind its first character, and goes through
the chat template with the rest. Where it comes out again the prompt is cut, and its pieces are encoded one by one, so
that no token spans the cut. Texts without special tokens are encoded as ever.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from histrio_api.text.template_forms import Message

__all__ = ["ChatText", "Literals"]

_CUTS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
"""Code points that are no characters, so that hardly any text has one."""
_OURS = frozenset({"role", "type"})
"""Fields of messages whose values are not the client's."""


class ChatText(NamedTuple):
    """What a chat's messages become."""

    pieces: list[str]
    """Encoded one by one."""

    @property
    def whole(self) -> str:
        """All of it."""
        return "".join(self.pieces)


class Literals:
    """Finds the special tokens of one model in messages."""

    def __init__(self, special_texts: Collection[str]) -> None:
        """One of a single character cannot be cut apart."""
        longest_first = sorted((each for each in special_texts if len(each) > 1), key=len, reverse=True)
        self._texts = frozenset(longest_first)
        self._any = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def mark(self, messages: Sequence[Message], own_marks: Collection[str] = ()) -> tuple[list[Message], str]:
        """The messages with a mark in every special token, and the mark; none, which is empty, where there is nothing
        to mark. What the assistant said may have its `own_marks`."""
        if not any(self._any.search(text) for message in messages for text in _texts(message)):
            return list(messages), ""

        cut = next((each for each in _CUTS if not any(each in text for text in _texts(list(messages)))), "")
        in_said = self._places(self._texts - frozenset(own_marks))
        everywhere = self._places(self._texts)
        marked = [
            _replaced(message, in_said if message["role"] == "assistant" else everywhere, cut) for message in messages
        ]
        return marked, cut

    def _places(self, texts: Collection[str]) -> re.Pattern[str]:
        """The first character of each special token, also of those that overlap."""
        return re.compile(f"(?s)(?=(?:{'|'.join(map(re.escape, texts))}))(.)" if texts else r"(?!)")


def _texts(value: Any) -> list[str]:
    """All texts of a message that are the client's."""
    match value:
        case str():
            return [value]
        case dict():
            return [text for key, each in value.items() if key not in _OURS for text in _texts(each)]
        case list():
            return [text for each in value for text in _texts(each)]
        case _:
            return []


def _replaced(value: Any, places: re.Pattern[str], cut: str) -> Any:
    match value:
        case str():
            return places.sub(lambda found: f"{found[1]}{cut}", value)
        case dict():
            return {key: each if key in _OURS else _replaced(each, places, cut) for key, each in value.items()}
        case list():
            return [_replaced(each, places, cut) for each in value]
        case _:
            return value
