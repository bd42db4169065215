"""The model's tokenizer, read from tokenizer.json: ids from text and text from ids."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from histrio.errors import ModelUnavailable, UnsupportedModel
from histrio_api.text.detokenizer import Detokenizer
from histrio_api.text.gap_marks import GapMarks, gap_marks
from histrio_api.text.literals import Literals
from histrio_api.text.pieces import TokenPieces
from histrio_api.text.token_bytes import TokenBytes, shown_bytes
from histrio_api.text.token_search import TokenSearch
from histrio_api.text.tokenizer_bounds import check_growth
from histrio_api.text.vocabulary_json import VocabularyJson

if TYPE_CHECKING:
    import tokenizers

__all__ = ["Tokenizer", "TooManyTokens"]

NUM_CONTEXT_TOKENS = 8
"""Ids of the prompt that a detokenizer sees when the answer continues the prompt's own text."""


_NUM_KEPT_SPELLINGS = 2**15
_NUM_KEPT_MARKS = 256
"""Of the forms in which models write what is not text."""
_PIECE_CHARS = 2**16
_USUAL_TOKEN_CHARS = 8
"""Texts with at most so many characters for each token that is allowed are encoded without another look."""
_NUM_TOKENS_BY_CUTS = 256
"""Rather more than a cut through a text can add to the number of its tokens."""


class TooManyTokens(Exception):
    """A text has more tokens than are allowed."""

    def __init__(self, num_tokens: int, *, is_exact: bool) -> None:
        super().__init__(f"the text has {'' if is_exact else 'more than '}{num_tokens} tokens")
        self.num_tokens = num_tokens
        self.is_exact = is_exact
        """False: there are more than that, and the rest of the text was not looked at."""


class Tokenizer:
    """Encodes and decodes; safe to use from several threads.

    The library is always asked for a batch, of one text: only its calls for batches release the interpreter's lock.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, bos_id: int | None = None) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._bos_id = bos_id
        self._bytes_of = TokenBytes(tokenizer)
        self.spell = lru_cache(_NUM_KEPT_SPELLINGS)(self._spell)
        """Text and bytes of one id: what it adds to a text, not how the vocabulary writes it."""
        self.hides = lru_cache(_NUM_KEPT_MARKS)(self._hides)
        """Whether decoding without special tokens loses a text."""

    @classmethod
    def load(cls, folder: str | Path, bos_id: int | None = None) -> Tokenizer:
        """Read `folder`/tokenizer.json. Raises `ModelUnavailable` or `UnsupportedModel`."""
        # Texts come one at a time, so its own threads would only add to the time that each takes.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        import tokenizers

        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise ModelUnavailable(
                f"{path}: no such file. The endpoint needs the tokenizer as tokenizer.json; for a model that has only "
                "a sentencepiece file, save one with transformers: AutoTokenizer.from_pretrained(…).save_pretrained(…)"
            )
        check_growth(path)
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)), bos_id)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # bare Exception for files that it cannot read, or a panic of Rust's
            raise UnsupportedModel(
                f"{path}: not a tokenizer that this version of `tokenizers` can read: {error}"
            ) from error

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, *, add_special: bool, max_tokens: int | None = None) -> list[int]:
        """Ids of `text`; special tokens written in it count as such. `add_special` adds BOS and the like, not twice.

        Raises `TooManyTokens` for more than `max_tokens`, and spares itself most of the work if there are many more.
        """
        self._require_encodable(text, max_tokens)
        encoding = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special)[0]
        _require_few(encoding, max_tokens)
        ids: list[int] = encoding.ids
        return ids[self._num_doubled(ids, add_special) :]

    def encode_pieces(self, pieces: Sequence[str], *, add_special: bool, max_tokens: int | None = None) -> list[int]:
        """Ids of the pieces of one text, each encoded by itself; otherwise as `encode`."""
        ids: list[int] = []
        for at, piece in enumerate(pieces):
            rest = None if max_tokens is None else max(0, max_tokens - len(ids))
            try:
                ids += self.encode(piece, add_special=add_special and at == 0, max_tokens=rest)
            except TooManyTokens as error:
                raise TooManyTokens(
                    len(ids) + error.num_tokens, is_exact=error.is_exact and at == len(pieces) - 1
                ) from None
        return ids

    def encode_pair(
        self, first: str, second: str, *, add_special: bool, most: int | None = None, max_tokens: int | None = None
    ) -> tuple[list[int], int]:
        """Ids of two texts joined in the tokenizer's way, and where those of the second one's type begin, 0 where all
        are of one type. With `most` the longer text loses its end until so many are left.

        Raises `TooManyTokens` for more than `max_tokens`.
        """
        for text in (first, second):
            self._require_encodable(text, max_tokens)
        if most is None:
            joined = self._tokenizer.encode_batch_fast([(first, second)], add_special_tokens=add_special)[0]
        else:
            joined = self._cut_pair(first, second, most, add_special=add_special)
        _require_few(joined, max_tokens)
        types = joined.type_ids[:most]
        return joined.ids[:most], types.index(1) if 1 in types else 0

    def _cut_pair(self, first: str, second: str, most: int, *, add_special: bool) -> tokenizers.Encoding:
        one, other = self._tokenizer.encode_batch([first, second], add_special_tokens=False)
        num_added = self._tokenizer.num_special_tokens_to_add(is_pair=True) if add_special else 0
        room = max(most - num_added, 0)
        shorter, longer = (one, other) if len(one) <= len(other) else (other, one)
        shorter.truncate(min(len(shorter), room // 2))
        longer.truncate(min(len(longer), room - len(shorter)))
        return self._tokenizer.post_process(one, other, add_special_tokens=add_special)

    def encode_placed(
        self, text: str, *, add_special: bool, max_tokens: int | None = None
    ) -> tuple[list[int], list[int]]:
        """The same ids, and where in `text` each begins, in characters; one that was added begins where the next does.

        What the tokenizer counts to no token, such as the space before a word, belongs to the one behind it. Tokens of
        spaces alone may have no span at all.
        """
        self._require_encodable(text, max_tokens)
        encoding = self._tokenizer.encode_batch([text], add_special_tokens=add_special)[0]
        _require_few(encoding, max_tokens)
        starts: list[int] = []
        end = 0
        spans = zip(encoding.ids, encoding.offsets, encoding.special_tokens_mask, strict=True)
        for token_id, (first, last), is_added in spans:
            has_span = first < last
            starts.append(min(first, end) if has_span else end)
            end = max(end, last) if has_span or is_added else end + len(self.spell(token_id)[0])
        num_doubled = self._num_doubled(encoding.ids, add_special)
        return encoding.ids[num_doubled:], starts[num_doubled:]

    def decode_placed(self, ids: Sequence[int]) -> tuple[str, list[int]]:
        """Text of `ids` without special tokens, and where in it each of them begins, in characters."""
        detokenizer = self.detokenizer()
        starts: list[int] = []
        num_chars = 0
        for token_id in ids:
            piece = detokenizer.push((token_id,))
            starts.append(num_chars + detokenizer.num_late_chars)
            num_chars += len(piece)
        return self.decode(ids), starts

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of `ids`."""
        text: str = self._tokenizer.decode_batch([list(ids)], skip_special_tokens=skip_special)[0]
        return text

    def token(self, token_id: int) -> str:
        """The vocabulary's own spelling of one id."""
        spelling: str | None = self._tokenizer.id_to_token(token_id)
        return "" if spelling is None else spelling

    def id_of(self, token: str) -> int | None:
        """Of the vocabulary's own spelling; None if there is no such token."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    @cached_property
    def gap_marks(self) -> GapMarks | None:
        """How models of this vocabulary are asked to fill a gap; None if they cannot be."""
        return gap_marks(self.id_of)

    @cached_property
    def search(self) -> TokenSearch:
        """Finds tokens by what they add to a text."""
        return TokenSearch(self._bytes_of(token_id) for token_id in range(self.vocab_size))

    @cached_property
    def vocabulary_json(self) -> VocabularyJson:
        """Writes log probabilities of all tokens."""
        return VocabularyJson(self._bytes_of)

    def _require_encodable(self, text: str, max_tokens: int | None) -> None:
        """Raise `TooManyTokens` where the pieces of a long text have twice as many tokens as are allowed."""
        if max_tokens is None or len(text) <= max(_USUAL_TOKEN_CHARS * max_tokens, _PIECE_CHARS):
            return

        num_tokens = 0
        for start in range(0, len(text), _PIECE_CHARS):
            piece = text[start : start + _PIECE_CHARS]
            num_tokens += len(self._tokenizer.encode_batch_fast([piece], add_special_tokens=False)[0])
            num_tokens -= _NUM_TOKENS_BY_CUTS
            if num_tokens > 2 * max_tokens:
                raise TooManyTokens(max_tokens, is_exact=False)

    def _num_doubled(self, ids: Sequence[int], add_special: bool) -> int:
        """1 if BOS was added to a text that begins with one."""
        return int(add_special and self._bos_id is not None and ids[:2] == [self._bos_id, self._bos_id])

    def _spell(self, token_id: int) -> tuple[str, list[int]]:
        token = self._bytes_of(token_id)
        return shown_bytes(token), list(token)

    def _hides(self, text: str) -> bool:
        return text not in self.decode(self.encode(text, add_special=False))

    def begins_with_own(self, text: str) -> bool:
        """Whether the text begins with a token that was added for a text of its own, such as `</think>`."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        return any(text.startswith(each.content) for each in added)

    @cached_property
    def special_texts(self) -> frozenset[str]:
        """The special tokens as they are written, which decoding leaves out."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        return frozenset(each.content for each in added if each.special)

    @cached_property
    def spaces_special(self) -> bool:
        """Whether decoding writes a space between two special tokens."""
        added = self._tokenizer.get_added_tokens_decoder()
        first = next((token_id for token_id, each in added.items() if each.special), None)
        return first is not None and 2 * added[first].content not in self.decode([first, first], skip_special=False)

    @cached_property
    def literals(self) -> Literals:
        """Finds special tokens in messages."""
        return Literals(self.special_texts)

    def detokenizer(self, *, skip_special: bool = True, continues: Sequence[int] = ()) -> Detokenizer:
        """Incremental decoding of one choice; `continues` are the prompt's ids if its text goes on without a break."""
        pieces = self.pieces if skip_special else self._pieces_with_special
        return Detokenizer(pieces, context=continues[-NUM_CONTEXT_TOKENS:])

    @cached_property
    def pieces(self) -> TokenPieces:
        """What each token adds to a text without special tokens."""
        return TokenPieces(self._tokenizer, self._bytes_of, skip_special=True)

    @cached_property
    def _pieces_with_special(self) -> TokenPieces:
        return TokenPieces(self._tokenizer, self._bytes_of, skip_special=False)


def _require_few(encoding: tokenizers.Encoding, max_tokens: int | None) -> None:
    if max_tokens is not None and len(encoding) > max_tokens:
        raise TooManyTokens(len(encoding), is_exact=True)
