"""Fields that are texts to a client and token ids to a sampler: they are replaced before fields are checked.

Tokenizers spell a word behind a space with other tokens than at the beginning of a text; both are meant. What breaks a
sequence may stand anywhere in a token, such as a line break behind a full stop; all such tokens are meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from histrio.errors import RequestError
from histrio_api.text.tokenizer import Tokenizer

__all__ = ["DEFAULT_BREAKERS", "MAX_BAD_WORDS", "MAX_BREAKERS", "with_word_ids", "with_word_schemas"]

DEFAULT_BREAKERS = ("\n", ":", '"', "*")
"""Where DRY is on and nothing is said of breakers, as in llama.cpp, koboldcpp and text-generation-webui."""
MAX_BAD_WORDS = 256
MAX_BREAKERS = 64
_MAX_WORD_CHARS = 128
_MAX_BREAKER_CHARS = 40


def with_word_ids(
    request: dict[str, Any], tokenizer: Tokenizer, sampling_fields: frozenset[str], vocab_size: int
) -> dict[str, Any]:
    """The request with `bad_words` as `bad_words_ids` and `dry_sequence_breakers` as `dry_sequence_breaker_ids`.

    As far as samplers take these. Ids from `vocab_size` on are left out: the tokenizer may know tokens that the model
    cannot say. Raises `RequestError`.
    """
    if "bad_words_ids" in sampling_fields:
        request = _with_bad_words(request, tokenizer, vocab_size)
    if "dry_sequence_breaker_ids" in sampling_fields:
        request = _with_breakers(request, tokenizer, vocab_size)
    return request


def with_word_schemas(schemas: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The JSON schemas of sampling fields, with those of texts in place of those of the ids that they become."""
    found = dict(schemas)
    if found.pop("bad_words_ids", None) is not None:
        found["bad_words"] = _texts_schema(MAX_BAD_WORDS, _MAX_WORD_CHARS, ())
    if found.pop("dry_sequence_breaker_ids", None) is not None:
        found["dry_sequence_breakers"] = _texts_schema(MAX_BREAKERS, _MAX_BREAKER_CHARS, DEFAULT_BREAKERS)
    return found


def _texts_schema(most: int, most_chars: int, default: Sequence[str]) -> dict[str, Any]:
    item = {"type": "string", "minLength": 1, "maxLength": most_chars}
    return {"type": "array", "items": item, "maxItems": most, "default": list(default)}


def _with_bad_words(request: dict[str, Any], tokenizer: Tokenizer, vocab_size: int) -> dict[str, Any]:
    words = request.get("bad_words")
    if not words:
        return request

    if not _are_texts(words, MAX_BAD_WORDS, _MAX_WORD_CHARS) or not all(word.strip() for word in words):
        text = f"bad_words must be a list of at most {MAX_BAD_WORDS} texts of 1 to {_MAX_WORD_CHARS} characters"
        raise RequestError(text, param="bad_words")
    if request.get("bad_words_ids"):
        raise RequestError("bad_words: give either these or bad_words_ids", param="bad_words")

    spellings = (tokenizer.encode(text, add_special=False) for word in words for text in (word, f" {word.lstrip()}"))
    rest = {name: value for name, value in request.items() if name != "bad_words"}
    sayable = (ids for ids in dict.fromkeys(map(tuple, spellings)) if ids and max(ids) < vocab_size)
    return rest | {"bad_words_ids": list(map(list, sayable))}


def _with_breakers(request: dict[str, Any], tokenizer: Tokenizer, vocab_size: int) -> dict[str, Any]:
    breakers, ids = request.get("dry_sequence_breakers"), request.get("dry_sequence_breaker_ids")
    if breakers is not None and not _are_texts(breakers, MAX_BREAKERS, _MAX_BREAKER_CHARS):
        limits = f"at most {MAX_BREAKERS} texts of 1 to {_MAX_BREAKER_CHARS} characters"
        raise RequestError(f"dry_sequence_breakers must be a list of {limits}", param="dry_sequence_breakers")
    if breakers is not None and ids is not None:
        text = "dry_sequence_breakers: give either these or dry_sequence_breaker_ids"
        raise RequestError(text, param="dry_sequence_breakers")

    rest = {name: value for name, value in request.items() if name != "dry_sequence_breakers"}
    if ids is not None or not _is_dry_on(request):
        return rest
    texts = DEFAULT_BREAKERS if breakers is None else breakers
    breaking = {each for text in texts for each in _ids_in(text, tokenizer) if each < vocab_size}
    return rest | {"dry_sequence_breaker_ids": sorted(breaking)}


def _is_dry_on(request: dict[str, Any]) -> bool:
    multiplier = request.get("dry_multiplier")
    return isinstance(multiplier, int | float) and multiplier > 0


def _ids_in(text: str, tokenizer: Tokenizer) -> list[int]:
    """Tokens that contain the text; of one that needs several tokens, the last."""
    return tokenizer.search.ids_containing(text) or tokenizer.encode(text, add_special=False)[-1:]


def _are_texts(values: Any, most: int, most_chars: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= most
        and all(isinstance(value, str) and 0 < len(value) <= most_chars for value in values)
    )
