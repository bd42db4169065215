"""Bad words as texts: samplers know token ids only, so words are encoded before they are checked.

Tokenizers spell a word behind a space with other tokens than at the beginning of a text; both are meant.
"""

from __future__ import annotations

from typing import Any

from histrio.errors import RequestError
from histrio_api.text.tokenizer import Tokenizer

__all__ = ["MAX_BAD_WORDS", "with_word_ids"]

MAX_BAD_WORDS = 256
_MAX_WORD_CHARS = 128


def with_word_ids(request: dict[str, Any], tokenizer: Tokenizer, sampling_fields: frozenset[str]) -> dict[str, Any]:
    """The request with `bad_words` as `bad_words_ids`, if a sampler takes those. Raises `RequestError`."""
    words = request.get("bad_words")
    if not words or "bad_words_ids" not in sampling_fields:
        return request

    if not _are_words(words):
        text = f"bad_words must be a list of at most {MAX_BAD_WORDS} texts of 1 to {_MAX_WORD_CHARS} characters"
        raise RequestError(text, param="bad_words")
    if request.get("bad_words_ids"):
        raise RequestError("bad_words: give either these or bad_words_ids", param="bad_words")

    spellings = (tokenizer.encode(text, add_special=False) for word in words for text in (word, f" {word.lstrip()}"))
    rest = {name: value for name, value in request.items() if name != "bad_words"}
    return rest | {"bad_words_ids": [list(ids) for ids in dict.fromkeys(map(tuple, spellings)) if ids]}


def _are_words(words: Any) -> bool:
    return (
        isinstance(words, list)
        and len(words) <= MAX_BAD_WORDS
        and all(isinstance(word, str) and 0 < len(word.strip()) <= len(word) <= _MAX_WORD_CHARS for word in words)
    )
