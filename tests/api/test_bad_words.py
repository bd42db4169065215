"""`bad_words` are texts to a client and token ids to the sampler."""

from __future__ import annotations

from typing import Any

import pytest

from histrio.errors import RequestError
from histrio_api.request.fields import split_fields
from histrio_api.request.words import MAX_BAD_WORDS, with_word_ids
from histrio_api.schemas.chat import ChatRequest
from histrio_api.text.tokenizer import Tokenizer

VOCAB = 400
FIELDS = frozenset({"bad_words_ids", "temperature"})
BASE: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def test_a_word_is_spelled_with_and_without_a_space_before_it(tokenizer: Tokenizer) -> None:
    given = with_word_ids(BASE | {"bad_words": ["red", " blue"], "temperature": 0.5}, tokenizer, FIELDS, VOCAB)

    spellings = [tokenizer.encode(text, add_special=False) for text in ("red", " red", " blue")]
    assert split_fields(given, ChatRequest, FIELDS)[1] == {"temperature": 0.5, "bad_words_ids": spellings}
    assert spellings[0] != spellings[1]


@pytest.mark.parametrize("words", [None, []])
def test_no_words_are_no_field(tokenizer: Tokenizer, words: Any) -> None:
    given = with_word_ids(BASE | {"bad_words": words}, tokenizer, FIELDS, VOCAB)

    assert split_fields(given, ChatRequest, FIELDS)[1] == {}


@pytest.mark.parametrize("words", ["red", [1], [""], ["  "], ["x" * 129], {"a": 1}, True, ["a"] * (MAX_BAD_WORDS + 1)])
def test_anything_else_is_refused_without_an_echo(tokenizer: Tokenizer, words: Any) -> None:
    with pytest.raises(RequestError, match="bad_words must be a list of at most 256 texts of 1 to 128") as caught:
        with_word_ids(BASE | {"bad_words": words}, tokenizer, FIELDS, VOCAB)
    assert caught.value.param == "bad_words"


def test_words_and_their_ids_exclude_each_other(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match="either these or bad_words_ids"):
        with_word_ids(BASE | {"bad_words": ["red"], "bad_words_ids": [[1]]}, tokenizer, FIELDS, VOCAB)


def test_without_the_sampler_words_are_refused(tokenizer: Tokenizer) -> None:
    given = with_word_ids(BASE | {"bad_words": ["red"]}, tokenizer, frozenset(), VOCAB)

    with pytest.raises(RequestError, match="bad_words: not supported"):
        split_fields(given, ChatRequest, frozenset())
