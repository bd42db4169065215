"""Token ids to text while they are generated; a character split over tokens comes out whole."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tokenizers.decoders import DecodeStream

if TYPE_CHECKING:
    import tokenizers

__all__ = ["Detokenizer"]


class Detokenizer:
    """The text of one choice. All pieces together equal the plain decoding of all ids."""

    __slots__ = ("_ids", "_num_chars", "_num_pending", "_skip_special", "_stream", "_tokenizer")

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, *, skip_special: bool = True, context: Iterable[int] = ()
    ) -> None:
        """`context` are the last ids of a text that is continued: decoders that drop a leading space need them."""
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._stream = DecodeStream(skip_special_tokens=skip_special)
        self._ids: list[int] = []
        self._num_chars = 0
        self._num_pending = 0
        self.push(context)
        # Bytes that the context left unfinished come out with the first piece.
        self._num_pending = 0

    def push(self, ids: Iterable[int]) -> str:
        """Take new ids; return the characters that are complete by now."""
        step, tokenizer = self._stream.step, self._tokenizer
        pieces: list[str] = []
        for token_id in ids:
            self._ids.append(token_id)
            piece = step(tokenizer, token_id)
            if piece is None:
                self._num_pending += 1
                continue

            self._num_pending = 0
            self._num_chars += len(piece)
            pieces.append(piece)

        return "".join(pieces)

    def flush(self) -> str:
        """The text ended: return what an unfinished character or a held-back token still hides."""
        if not self._num_pending:
            return ""

        self._num_pending = 0
        text: str = self._tokenizer.decode(self._ids, skip_special_tokens=self._skip_special)
        return text[self._num_chars :]
