"""What each token adds to a text, so that a text can be shown while its tokens come.

The governing idea: a token that is a text of its own adds the same text wherever it stands, but for the beginning of a
text; that is learned once, from what the tokenizer decodes behind a fixed other token. A token that is only bytes of a
text adds nothing alone: what a run of such tokens reads is asked of the tokenizer again, once the run has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from histrio_api.text.token_bytes import TokenBytes, decoder_parts

if TYPE_CHECKING:
    import tokenizers

__all__ = ["NOTHING", "Joining", "Piece", "TokenPieces"]

Piece = str | bytes
"""A text of its own, or bytes of one."""

NOTHING = b""
"""Of a token that no decoder sees: one that is left out, or unknown."""

_UNSEEN = b"\x00"
"""Stands for a token that is no text of its own, whatever its bytes are."""


class Joining(Enum):
    """How a decoder makes one text of its tokens."""

    BYTES = auto()
    """All bytes follow each other; what is no UTF-8 becomes replacement marks."""
    RUNS = auto()
    """Tokens are texts, but for runs of byte tokens, which are UTF-8 from end to end or nothing but marks."""
    WHOLE = auto()
    """Only the whole text can be decoded."""


class TokenPieces:
    """Pieces of the ids of one tokenizer, kept once they were asked for; safe to use from several threads."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, bytes_of: TokenBytes, *, skip_special: bool) -> None:
        self._tokenizer = tokenizer
        self._bytes_of = bytes_of
        self._skip_special = skip_special
        added = tokenizer.get_added_tokens_decoder().values() if skip_special else ()
        self._left_out = frozenset(token.content for token in added if token.special)
        self.joining = _joining(decoder_parts(tokenizer.decoder))
        self.known: dict[int, Piece] = {}
        """What was asked for by now."""
        self._before: list[int] = []
        self._num_before_chars = 0
        if self.joining is Joining.RUNS:
            self._find_neighbour()

    def learn(self, token_id: int) -> Piece:
        """The piece of an id that is not `known`."""
        piece = self._piece(token_id)
        self.known[token_id] = piece
        return piece

    def begin(self, ids: Sequence[int]) -> str:
        """The text that consists of `ids`."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=self._skip_special)
        return text

    def within(self, ids: Sequence[int]) -> str:
        """What `ids` add to a text that has begun."""
        return self.begin([*self._before, *ids])[self._num_before_chars :]

    def byte_of(self, token_id: int) -> bytes:
        """The one byte that a byte token stands for; of other tokens nothing."""
        return self._bytes_of(token_id) if self._bytes_of.is_byte(token_id) else b""

    def _piece(self, token_id: int) -> Piece:
        spelling: str | None = self._tokenizer.id_to_token(token_id)
        if spelling is None or spelling in self._left_out:
            return NOTHING
        match self.joining:
            case Joining.WHOLE:
                return _UNSEEN
            case Joining.BYTES:
                return _as_text(self._bytes_of(token_id)) or NOTHING
            case Joining.RUNS:
                return _UNSEEN if self._bytes_of.is_byte(token_id) else self.within([token_id])

    def _find_neighbour(self) -> None:
        """Any token with a text of its own will do."""
        for token_id in range(self._tokenizer.get_vocab_size()):
            if isinstance(self._piece(token_id), str) and (text := self.begin([token_id])):
                self._before, self._num_before_chars = [token_id], len(text)
                return

        self.joining = Joining.WHOLE


def _as_text(token: bytes) -> Piece:
    try:
        return token.decode()
    except UnicodeDecodeError:
        return token


def _joining(parts: Sequence[dict[str, Any]]) -> Joining:
    """Of a decoder that takes these steps one after the other."""
    kinds = [part["type"] for part in parts]
    if "ByteLevel" in kinds:
        at = kinds.index("ByteLevel")
        is_plain = all(map(_is_plain_replace, parts[:at])) and set(kinds[at + 1 :]) <= {"Fuse"}
        return Joining.BYTES if is_plain else Joining.WHOLE

    is_fused = False
    for part in parts:
        if not (_keeps_fused(part) if is_fused else _keeps_single(part)):
            return Joining.WHOLE
        is_fused = is_fused or part["type"] == "Fuse"
    return Joining.RUNS


def _is_plain_replace(part: dict[str, Any]) -> bool:
    return part["type"] == "Replace" and "String" in part["pattern"]


def _keeps_single(part: dict[str, Any]) -> bool:
    """Whether a step changes tokens one by one, whatever follows them."""
    return part["type"] in {"ByteFallback", "Fuse", "Metaspace", "Replace", "Strip", "WordPiece"}


def _keeps_fused(part: dict[str, Any]) -> bool:
    """Whether a step that sees the text as one token changes a character whatever follows it."""
    match part["type"]:
        case "Replace":
            return len(part["pattern"].get("String", "")) == 1
        case "Strip":
            return bool(part["stop"] == 0)
        case kind:
            return kind in {"Fuse", "Metaspace"}
