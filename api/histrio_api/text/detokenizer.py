"""Token ids to text while they are generated; a character split over tokens comes out whole."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from histrio_api.text.pieces import NOTHING, Joining, Piece, TokenPieces

__all__ = ["Detokenizer"]

_BROKEN = "\ufffd"
_MAX_READ_IDS = 256
"""Longer runs are not read before they end, since reading one after each of its ids takes quadratic time."""


class Detokenizer:
    """The text of one choice. All pieces together equal the plain decoding of all ids."""

    __slots__ = ("_held", "_pieces", "num_late_chars")

    def __init__(self, pieces: TokenPieces, context: Iterable[int] = ()) -> None:
        """`context` are the last ids of a text that is continued: decoders that drop a leading space need them.

        A character that the context left unfinished comes out with the first piece.
        """
        self._pieces = pieces
        self._held: _HeldBytes | _HeldIds = _HeldBytes() if pieces.joining is Joining.BYTES else _HeldIds(pieces)
        self.num_late_chars = 0
        """How many characters at the beginning of the last piece belong to ids that came in earlier calls."""
        if context:
            self.push(context)
            self._held.forget_shown()

    def push(self, ids: Iterable[int]) -> str:
        """Take new ids; return the characters that are complete by now."""
        known, held = self._pieces.known, self._held
        self.num_late_chars = 0
        texts: list[str] = []
        for token_id in ids:
            piece = known.get(token_id)
            if piece is None:
                piece = self._pieces.learn(token_id)
            if held.is_empty and isinstance(piece, str):
                texts.append(piece)
            elif piece is not NOTHING:
                late, text = held.take(token_id, piece)
                if not texts:
                    self.num_late_chars = len(late)
                texts += (late, text)
        return "".join(texts)

    @property
    def complete_text(self) -> str:
        """The text that is held back only because later ids may change it; "" if a character of it is not complete."""
        if self._held.is_empty or not 0 < self._held.num_ids <= _MAX_READ_IDS:
            return ""
        text = self._held.text()
        return "" if _BROKEN in text else text

    def flush(self) -> str:
        """The text ended: return what was held back."""
        return "" if self._held.is_empty else self._held.take_all()


class _HeldBytes:
    """The bytes of a character that has only begun."""

    __slots__ = ("_bytes", "is_empty")
    num_ids = 0
    """Nothing that could be read: what is held here is never complete."""

    def __init__(self) -> None:
        self._bytes = b""
        self.is_empty = True

    def take(self, _token_id: int, piece: Piece) -> tuple[str, str]:
        """What is held reads now, and what the piece adds."""
        if isinstance(piece, str):
            return self.take_all(), piece

        data = self._bytes + piece
        text, num_used = codecs.utf_8_decode(data, "replace", False)
        self._bytes = data[num_used:]
        self.is_empty = not self._bytes
        return "", text

    def text(self) -> str:
        """As it reads if nothing follows."""
        return self._bytes.decode(errors="replace")

    def take_all(self) -> str:
        """The same, and nothing is held any more."""
        text = self.text()
        self._bytes, self.is_empty = b"", True
        return text

    def forget_shown(self) -> None:
        """Nothing of a character that has only begun was shown."""


class _HeldIds:
    """Ids whose text may still change: a run of byte tokens, and at its beginning a text that shows nothing yet."""

    __slots__ = ("_has_begun", "_ids", "_pieces", "is_empty")

    def __init__(self, pieces: TokenPieces) -> None:
        self._pieces = pieces
        self._ids: list[int] = []
        self._has_begun = False
        self.is_empty = False
        """Also false at the beginning of a text, where pieces may be other ones than later."""

    def take(self, token_id: int, piece: Piece) -> tuple[str, str]:
        """What is held reads now, and what the piece adds."""
        if isinstance(piece, bytes):
            self._ids.append(token_id)
            self.is_empty = False
            return "", ""
        if self._has_begun:
            return self.take_all(), piece

        num_late_chars = len(self.text())
        self._ids.append(token_id)
        text = self.text()
        if text:
            self._begin()
        return text[:num_late_chars], text[num_late_chars:]

    @property
    def num_ids(self) -> int:
        """How many are held."""
        return len(self._ids)

    def text(self) -> str:
        """As it reads if nothing follows."""
        return self._pieces.within(self._ids) if self._has_begun else self._pieces.begin(self._ids)

    def take_all(self) -> str:
        """The same, and nothing is held any more."""
        text = self.text()
        self._begin()
        return text

    def forget_shown(self) -> None:
        """Keep only a character that has begun: what was whole had been shown."""
        run = b"".join(self._pieces.byte_of(token_id) for token_id in self._ids)
        if len(run) == len(self._ids) and (num_shown := codecs.utf_8_decode(run, "replace", False)[1]):
            rest = self._ids[num_shown:]
            self._begin()
            self._ids, self.is_empty = rest, not rest

    def _begin(self) -> None:
        self._ids, self._has_begun, self.is_empty = [], True, True
